"""Checkpoints of a run: written atomically, and marked with the stage that they belong to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info

from lass.artifacts import atomic_write
from lass.errors import LassError

CHECKPOINT_FOLDER, LAST_CHECKPOINT, BEST_CHECKPOINT = "checkpoints", "last.ckpt", "best.ckpt"  # in a run's folder
PREVIOUS_FOLDER = "previous"  # in a run's folder: files of the training that a new one replaces
STAGE_KEY = "lass_stage"  # key in a checkpoint: class name of the LightningModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Reads and writes local checkpoints atomically: a failed write leaves the previous file unchanged.

    Args:
        stage: Class name of the LightningModule. Only checkpoints of this class can be loaded.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to a temporary file in the same folder, then rename it.

        Raises:
            LassError: if the disk is full or the folder cannot be written to.
        """
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint of this stage, without executing code in it.

        Raises:
            LassError: if the file is missing, damaged, or not a checkpoint of this stage.
        """
        if not Path(path).is_file():
            raise LassError(f"There is no checkpoint to resume from at {path}: start without --ckpt_path.")
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:  # its message advises disabling `weights_only`
            raise LassError(
                f"{path} holds other objects than a checkpoint of lass: start without --ckpt_path."
            ) from error
        except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LassError(f"The checkpoint {path} is damaged ({reason}): start without --ckpt_path.") from error
        stage = checkpoint.get(STAGE_KEY) if isinstance(checkpoint, dict) else None
        if stage != self.stage:
            kind = f"a checkpoint of {stage}" if stage else "no checkpoint of a stage of this version of lass"
            raise LassError(f"{path} is {kind}, but this run is {self.stage}: start without --ckpt_path.")
        return checkpoint


class RunCheckpoint(ModelCheckpoint):
    """Base class of the checkpoint callbacks; subclasses call `save` at the times when checkpoints are due.

    A new training in a folder with an earlier one first archives the earlier files in `previous/`, as hard links.

    Args:
        dirpath: Folder of the checkpoints, inside the run's folder.
        made: Names of further files and folders in the run's folder that the training replaces.
        **options: Arguments of ModelCheckpoint.
    """

    def __init__(self, dirpath: str | Path, made: Sequence[str] = (), **options: Any) -> None:
        self.folder = Path(dirpath)
        super().__init__(dirpath, save_top_k=0, enable_version_counter=False, **options)
        self.made = made

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the trainer write checkpoints atomically, unless the user has set another checkpoint plugin."""
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO(type(pl_module).__name__)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Archive the files of an earlier training, unless this one resumes it."""
        if trainer.is_global_zero and not trainer.ckpt_path:
            archive_previous(self.folder.parent, [self.folder.name, *self.made])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the class name of the module to the checkpoint."""
        checkpoint[STAGE_KEY] = type(pl_module).__name__

    def save(self, trainer: Trainer, name: str = LAST_CHECKPOINT) -> None:
        """Save a checkpoint under `name`. Must be called on all ranks."""
        trainer.save_checkpoint(self.folder / name, weights_only=False)
        self._last_global_step_saved = trainer.global_step


def archive_previous(folder: Path, names: Sequence[str]) -> None:
    """Hard-link files and folders of a run into its `previous/`, replacing the content of that folder.

    The run's files are later replaced by renaming, so the links keep the earlier content; until then they need no disk
    space.
    """
    paths = [folder / name for name in names if (folder / name).exists()]
    if not paths:
        return
    previous = folder / PREVIOUS_FOLDER
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for path in paths:
        if path.is_dir():
            shutil.copytree(path, previous / path.name, copy_function=_link)
        else:
            _link(path, previous / path.name)
    rank_zero_info(f"{folder} holds an earlier training, which is kept in {previous}; this one starts afresh.")


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
