"""The command `lass`: Lightning's command line over the four stages, `lass separate` over files, and `lass import`."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentError
from pathlib import Path
from pickle import UnpicklingError

import torch
import yaml
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger

from lass import import_model, separate_files
from lass.artifacts import written_whole
from lass.errors import LassError
from lass.tasks.training import CHECKPOINT_FOLDER, LAST_CHECKPOINT


class KeepConfig(SaveConfigCallback):
    """Writes the resolved config beside what the run makes, and into Weights & Biases."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save before training; before separating only once the results folder has accepted the run."""
        if stage != "predict":
            super().setup(trainer, pl_module, stage)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See `setup`."""
        super().setup(trainer, pl_module, "predict")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called once, on the first process."""
        config = self.parser.dump(self.config, skip_none=False)
        with written_whole(Path(trainer.default_root_dir) / "config.yaml") as temporary:
            temporary.write_text(config)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(yaml.safe_load(config), allow_val_change=True)


class LassCLI(LightningCLI):
    """`lass fit|predict -c experiments/<dataset>/<stage>.yaml --any.option=value`."""

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=KeepConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            # `main` reports errors: the parser itself would print a hundred lines of usage before the reason.
            parser_kwargs={
                "description": "Latent Autoregressive Source Separation, stage by stage. "
                "For files and a finished separator: lass separate --help. For published models: lass import --help",
                "exit_on_error": False,
                **{command: {"exit_on_error": False} for command in self.subcommands()},
            },
            args=args,
            run=run,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str] | None) -> None:
        """Let `--ckpt_path=last` mean the run's own last checkpoint, and refuse one that cannot be read.

        Lightning looks for `last` before it asks the model for its callbacks: it would find none and start afresh.
        """
        super().parse_arguments(parser, args)
        command = self.config.get("subcommand")
        config = self.config[command] if command else {}
        if not config.get("ckpt_path"):
            return
        path = Path(config["ckpt_path"])
        if str(path) == "last":
            path = Path(config["trainer"]["default_root_dir"] or ".") / CHECKPOINT_FOLDER / LAST_CHECKPOINT
        if not path.is_file():
            raise LassError(f"There is no checkpoint to go on from at {path}: start without --ckpt_path.")
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
            raise LassError(f"The checkpoint {path} is damaged ({error}): start without --ckpt_path.") from error
        config["ckpt_path"] = str(path)


def main(args: list[str] | None = None) -> None:
    """Entry point: a mistake of the user's is one sentence and status 1, not a traceback."""
    # Lightning advertises other products at every start; nothing else it says is dropped.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: "💡" not in record.getMessage())
    words = sys.argv[1:] if args is None else args
    try:
        if words[:1] == ["separate"]:
            separate_files.main(words[1:])
        elif words[:1] == ["import"]:
            import_model.main(words[1:])
        else:
            LassCLI(args)
    except (ValueError, ArgumentError) as error:
        mistake = _mistake_behind(error)
        if isinstance(mistake, ArgumentError):
            sys.exit(f"lass: {mistake}\nSee `lass --help`, `lass fit --help` and `lass predict --help`.")
        if mistake is None:
            raise
        # One from a process that loads data comes with that process's traceback in front of its sentence.
        sentence = str(mistake).rpartition(f"{LassError.__module__}.{LassError.__name__}: ")[2]
        sys.exit(f"lass: {' '.join(sentence.split())}")


def _mistake_behind(error: BaseException | None) -> LassError | ArgumentError | None:
    """The user's mistake behind an exception: jsonargparse wraps those of constructors in its own."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for kind in (LassError, ArgumentError):
        for link in chain:
            if isinstance(link, kind):
                return link
    return None


if __name__ == "__main__":
    main()
