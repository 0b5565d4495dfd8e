"""`lass fit|predict|validate|test`: run the stages of an experiment with Lightning's command line."""

from __future__ import annotations

import contextlib
import sys
from argparse import ArgumentError
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lass.artifacts import atomic_write
from lass.cli.parser_errors import explain
from lass.cli.quiet import REPLACED_CHECKPOINT, hide
from lass.cli.reporting import is_interruption, one_line
from lass.cli.run_folder import locked
from lass.errors import LassError, check_number, disk_error
from lass.report.curves import LOG_FOLDER
from lass.report.progress import RunProgressBar
from lass.tasks.checkpoints import CHECKPOINT_FOLDER, LAST_CHECKPOINT
from lass.tasks.trainer import is_dry_run, is_fast_dev_run

#: Commands of Lightning, with the method that a task must define to be run by the command.
STEPS = {"fit": "training_step", "predict": "predict_step", "validate": "validation_step", "test": "test_step"}

#: Keys of every checkpoint of Lightning.
LIGHTNING_KEYS = ("state_dict", "epoch", "global_step", "pytorch-lightning_version", "loops")


def main(args: list[str] | None) -> None:
    """Run a stage. A MisconfigurationException of Lightning is raised again as LassError."""
    try:
        LassCLI(args)
    except MisconfigurationException as error:
        raise LassError(one_line(error)) from error


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config to the run's folder and to Weights & Biases."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config, except for `predict`, where the results folder must first accept the run's settings."""
        if stage != "predict":
            self._save(trainer, pl_module, stage)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the config for `predict`; see `setup`."""
        self._save(trainer, pl_module, "predict")

    def _save(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not is_fast_dev_run(trainer):
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml and update the W&B config. Called once, on rank 0."""
        config = self.parser.dump(self.config, skip_none=False)
        with atomic_write(Path(trainer.default_root_dir) / "config.yaml") as temporary:
            temporary.write_text(config)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(yaml.safe_load(config), allow_val_change=True)


class LassCLI(LightningCLI):
    """Command line of the stages: `lass fit|predict -c experiments/<dataset>/<stage>.yaml --any.option=value`."""

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        # Errors are reported by `main`, because the parser would print a hundred lines of usage before the reason.
        # Abbreviated options are not accepted: they would hide typing errors, and work for some options only.
        strict = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            trainer_defaults={"enable_model_summary": False},  # the tasks print the number of parameters
            parser_kwargs={
                "description": "Latent Autoregressive Source Separation, stage by stage. "
                "For files and a finished separator: lass separate --help. For published models: lass import --help",
                **strict,
                **{command: dict(strict) for command in self.subcommands()},
            },
            args=args,
            run=run,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line and validate the settings, before any object is instantiated.

        Raises:
            LassError: if an option is unknown or has a value of the wrong type, if a config cannot be read or is for
                another stage, or if the run cannot be resumed from the checkpoint.
        """
        words = sys.argv[1:] if args is None else args
        try:
            super().parse_arguments(parser, args)
        except RecursionError as error:
            raise LassError("A config contains itself through a YAML alias: write the value out instead.") from error
        except (ArgumentError, UnicodeDecodeError) as error:
            command = next((word for word in words if word in self._subcommand_parsers), "fit")
            message = error.message if isinstance(error, ArgumentError) else str(error)
            name = error.argument_name if isinstance(error, ArgumentError) else None
            option = f"argument {name}: " if name else ""
            raise LassError(explain(f"{option}{message}", self._subcommand_parsers, command)) from error
        command = self.config.get("subcommand")
        if not command:
            return
        config = self.config[command]
        if not isinstance(config.seed_everything, bool):
            check_number("--seed_everything", config.seed_everything, at_least=0, at_most=2**32 - 1, whole=True)
        if config.trainer.check_val_every_n_epoch is not None:  # Lightning divides by it
            check_number("--trainer.check_val_every_n_epoch", config.trainer.check_val_every_n_epoch, at_least=1)
        _check_command(command, config.model.class_path)
        if config.get("ckpt_path"):
            config["ckpt_path"] = str(self._checkpoint(command, config))

    def _checkpoint(self, command: str, config: Any) -> Path:
        """Resolve `--ckpt_path=last` to the last checkpoint of the run, and validate the checkpoint.

        Lightning resolves `last` before it adds the model's callbacks, so it would find none and start a new training.
        """
        if command == "predict":
            raise LassError(
                "`lass predict` reads no checkpoint, it resumes at the first missing mixture: leave out --ckpt_path."
            )
        path = Path(config["ckpt_path"])
        if str(path) == "last":
            path = Path(config["trainer"]["default_root_dir"] or ".") / CHECKPOINT_FOLDER / LAST_CHECKPOINT
        check_checkpoint(path)
        return path

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would read class paths from the checkpoint, which may come from an untrusted source."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Instantiate the trainer, with our progress bar. An error in its settings is raised as LassError."""
        trainer = self._get(self.config_init, "trainer")
        callbacks = trainer.callbacks or []
        callbacks = [*callbacks] if isinstance(callbacks, list) else [callbacks]
        if not callbacks:
            hide(REPLACED_CHECKPOINT)
        if trainer.enable_progress_bar is not False and not any(isinstance(x, ProgressBar) for x in callbacks):
            callbacks.append(RunProgressBar())
        try:
            return super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            if isinstance(error, LassError):
                raise
            raise LassError(f"The trainer does not take these settings: {one_line(error)}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        folder = Path(self.trainer.default_root_dir)
        first = self.trainer.is_global_zero and not is_fast_dev_run(self.trainer)
        try:
            with locked(folder) if first else contextlib.nullcontext():
                if subcommand == "fit":
                    self._add_csv_log(folder)
                super()._run_subcommand(subcommand)
        except Exception as error:
            if failure := self._misfit(error) or disk_error(error, folder):
                raise failure from error
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            if subcommand == "fit" and is_interruption(error) and not (folder / CHECKPOINT_FOLDER).is_dir():
                raise KeyboardInterrupt("there is no checkpoint yet, so the same command starts afresh") from error
            raise

    def _add_csv_log(self, folder: Path) -> None:
        """Log numbers to `csv/version_*/metrics.csv` as well, which `lass.report.curves` reads."""
        loggers = self.trainer.loggers
        has_csv = any(isinstance(logger, CSVLogger) for logger in loggers)
        if loggers and not has_csv and not is_dry_run(self.trainer):
            self.trainer.loggers = [*loggers, CSVLogger(folder, LOG_FOLDER, flush_logs_every_n_steps=1)]

    def _misfit(self, error: Exception) -> LassError | None:
        path, lines = self.trainer.ckpt_path, str(error).splitlines()
        if not path or not lines or "Error(s) in loading state_dict" not in lines[0]:
            return None
        return LassError(
            f"The checkpoint {path} is of a run with other settings of the model ({lines[-1].strip()}): start without "
            "--ckpt_path, or set them as they were."
        )


def check_checkpoint(path: Path) -> None:
    """Raise LassError unless a file is a checkpoint of Lightning. No code in the file is executed."""
    if not path.is_file():
        raise LassError(f"There is no checkpoint to resume from at {path}: start without --ckpt_path.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes, the unpickler may raise any exception
        # PyTorch's message is long, and advises executing the code in the file.
        reason = (
            "it holds objects that are no weights" if "Unsupported global" in str(error) else "it is cut or damaged"
        )
        raise LassError(f"The checkpoint {path} cannot be read, as {reason}: start without --ckpt_path.") from error
    lacking = [key for key in LIGHTNING_KEYS if not isinstance(checkpoint, dict) or key not in checkpoint]
    if lacking:
        raise LassError(
            f"{path} is no checkpoint of a training (it has no {lacking[0]}): start without --ckpt_path, or name the "
            f"{LAST_CHECKPOINT} of a run."
        )


def _check_command(command: str, class_path: str) -> None:
    """Raise LassError if a task cannot be run by a command, which happens if its config is for another stage."""
    module, _, name = class_path.rpartition(".")
    task = getattr(import_module(module), name)

    def has(step: str) -> bool:
        return getattr(task, step) is not getattr(LightningModule, step)

    if not has(STEPS[command]) and not (command == "predict" and has("forward")):
        fitting = [f"`lass {other}`" for other, step in STEPS.items() if has(step)]
        raise LassError(
            f"`lass {command}` cannot run {class_path}"
            + (f", which is for {' and '.join(fitting)}" if fitting else "")
            + ": name a config of another stage, or the other command."
        )
