"""Entry point of the `lass` command: run a subcommand and report errors and interruptions."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version

from lass.cli.configs import check_config, configs_in
from lass.cli.parser_errors import nearest
from lass.cli.quiet import silence
from lass.cli.reporting import is_interruption, sentence_for
from lass.cli.threads import set_up_threads
from lass.errors import LassError

HELP = """usage: lass COMMAND ...

Latent Autoregressive Source Separation.

commands:
  separate   separate image or audio files: lass separate song.mp3
  app        separate in the browser
  import     convert published models to codecs and priors
  fit        train a codec, a prior, features or a network, or count a likelihood: lass fit -c CONFIG.yaml
  predict    separate the mixtures of a dataset and score them: lass predict -c CONFIG.yaml
  validate, test
             the other commands of Lightning's command line

`lass COMMAND --help` shows the options of a command, `lass --version` the version. A command uses all CPUs that it may
use; OMP_NUM_THREADS=1 in the environment limits it to one thread."""

#: Module with the `main` function of each command, imported on use: no other command needs Lightning, nor help torch.
STAGES = "lass.cli.stages"
COMMANDS = {
    "separate": "lass.cli.separate",
    "app": "lass.app.main",
    "import": "lass.cli.import_models",
    **dict.fromkeys(("fit", "predict", "validate", "test"), STAGES),
}

#: Message after Ctrl-C: how to resume each command.
GO_ON = {
    "fit": "the same command with --ckpt_path=last resumes from the last checkpoint",
    "predict": "the same command resumes at the first missing mixture",
    "separate": "estimates that were finished are kept, and --overwrite makes all of them again",
    "app": "the page was not opened yet",
    "import": "nothing was imported",
}


def main(args: list[str] | None = None) -> None:
    """Run the command line; bad input prints one sentence and exits with status 1, Ctrl-C exits with status 130.

    Exceptions that are not due to bad input or the file system are raised unchanged.

    Args:
        args: Words after `lass`; default those of the process.
    """
    silence()
    set_up_threads()
    words = sys.argv[1:] if args is None else args
    command = words[0] if words else ""
    try:
        if command in ("-h", "--help"):
            print(HELP)
            return
        if command == "--version":
            print(f"lass {version('lass')}")
            return
        module = _module_of(command)
        if module == STAGES:
            for path in configs_in(words):
                check_config(path)
        # Lightning reads the words of the process itself, and warns if it is given them.
        import_module(module).main(args if module == STAGES else words)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if is_interruption(error):
            told = str(error) if isinstance(error, KeyboardInterrupt) else ""
            how = os.environ.get("LASS_GO_ON") or told or GO_ON.get(command)  # LASS_GO_ON: of the script that runs us
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
