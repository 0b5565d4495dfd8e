"""Entry point of the command `lass`: picks the subcommand and reports how it ended."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

from lass.cli.parser_errors import nearest
from lass.cli.reporting import is_interruption, sentence_for
from lass.errors import LassError

#: Module with the `main` of each command. Modules are imported on use: `separate` and `import` need no Lightning.
COMMANDS = {
    **dict.fromkeys(("fit", "predict", "validate", "test"), "lass.cli.stages"),
    "separate": "lass.cli.separate",
    "import": "lass.cli.import_models",
}

#: How to go on after Ctrl-C.
GO_ON = {
    "fit": "the same command with --ckpt_path=last goes on from the last checkpoint",
    "predict": "the same command goes on at the first mixture that is missing",
    "separate": "estimates that were finished are kept, and --overwrite makes all of them again",
    "import": "nothing was imported",
}

#: Lines of Lightning that are not shown: it advertises other products, and `main` reports Ctrl-C itself.
UNWANTED = ("💡", "Detected KeyboardInterrupt")


def main(args: list[str] | None = None) -> None:
    """Entry point: a mistake of the user's is one sentence and status 1, not a traceback; Ctrl-C is status 130."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(words in record.getMessage() for words in UNWANTED)
    )
    words = sys.argv[1:] if args is None else args
    command = words[0] if words else ""
    try:
        _check_is_command(command)
        import_module(COMMANDS.get(command, "lass.cli.stages")).main(words)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if is_interruption(error):
            how = str(error) if isinstance(error, KeyboardInterrupt) and str(error) else GO_ON.get(command)
            print(f"lass: stopped; {how or 'nothing was made'}.", file=sys.stderr)
            sys.exit(130)
        sentence = sentence_for(error)
        if sentence is None:
            raise
        sys.exit(f"lass: {sentence}")


def _check_is_command(word: str) -> None:
    if word and (word.startswith("-") or word in COMMANDS):
        return
    hint = nearest(word, COMMANDS)
    raise LassError(f"There is no command {word!r}{hint}" if word else f"A command is missing{hint}")
