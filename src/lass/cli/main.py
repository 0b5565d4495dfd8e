"""Entry point of the `lass` command: run a subcommand and report errors and interruptions."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

from lass.cli.configs import check_config, configs_in
from lass.cli.parser_errors import nearest
from lass.cli.reporting import is_interruption, sentence_for
from lass.errors import LassError

HELP = """usage: lass COMMAND ...

Latent Autoregressive Source Separation.

commands:
  fit        train a codec, a prior, features or a network, or count a likelihood: lass fit -c CONFIG.yaml
  predict    separate the mixtures of a dataset and score them: lass predict -c CONFIG.yaml
  separate   separate image or audio files with a finished separator
  import     convert published models to codecs and priors
  validate, test
             the other commands of Lightning's command line

`lass COMMAND --help` shows the options of a command."""

#: Module with the `main` function of each command, imported on use, as `separate` and `import` do not need Lightning.
STAGES = "lass.cli.stages"
COMMANDS = {
    **dict.fromkeys(("fit", "predict", "validate", "test"), STAGES),
    "separate": "lass.cli.separate",
    "import": "lass.cli.import_models",
    "app": "lass.app.main",
}

#: Message after Ctrl-C: how to resume each command.
GO_ON = {
    "fit": "the same command with --ckpt_path=last resumes from the last checkpoint",
    "predict": "the same command resumes at the first missing mixture",
    "separate": "estimates that were finished are kept, and --overwrite makes all of them again",
    "import": "nothing was imported",
}

#: Log messages of Lightning that are suppressed: advertisements, and Ctrl-C, which `main` reports.
UNWANTED = ("💡", "Detected KeyboardInterrupt")


def main(args: list[str] | None = None) -> None:
    """Run the command line; bad input prints one sentence and exits with status 1, Ctrl-C exits with status 130.

    Exceptions that are not due to bad input or the file system are raised unchanged.

    Args:
        args: Words after `lass`; default those of the process.
    """
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(words in record.getMessage() for words in UNWANTED)
    )
    words = sys.argv[1:] if args is None else args
    command = words[0] if words else ""
    try:
        if command in ("-h", "--help"):
            print(HELP)
            return
        module = _module_of(command)
        if module == STAGES:
            for path in configs_in(words):
                check_config(path)
        # Lightning reads the words of the process itself, and warns if it is given them.
        import_module(module).main(args if module == STAGES else words)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if is_interruption(error):
            how = str(error) if isinstance(error, KeyboardInterrupt) and str(error) else GO_ON.get(command)
            print(f"lass: stopped; {how or 'nothing was made'}.", file=sys.stderr)
            sys.exit(130)
        sentence = sentence_for(error)
        if sentence is None:
            raise
        sys.exit(f"lass: {sentence}")


def _module_of(command: str) -> str:
    """Module of a command; options before the command belong to Lightning."""
    if command in COMMANDS:
        return COMMANDS[command]
    if command.startswith("-"):
        return STAGES
    hint = nearest(command, COMMANDS)
    raise LassError(f"There is no command {command!r}{hint}" if command else f"A command is missing{hint}")
