"""The checkpoints of a run: written whole or not at all, marked with their stage, and never by a dry run."""

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
PREVIOUS_FOLDER = "previous"  # in a run's folder: the training that a fresh one replaces
STAGE_KEY = "lass_stage"  # in a checkpoint: name of the class of the module


class AtomicCheckpointIO(TorchCheckpointIO):
    """Reads and writes local checkpoints; a file that cannot be written to its end leaves the one before as it was.

    Args:
        stage: class name of the LightningModule, which a checkpoint must name to be read.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write to a temporary file in the same folder, and rename it.

        Raises:
            LassError: if the disk is full or the folder cannot be written to.
        """
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint of this stage; nothing in it is run.

        Raises:
            LassError: if the file is missing, damaged, or no checkpoint of this stage.
        """
        if not Path(path).is_file():
            raise LassError(f"There is no checkpoint to go on from at {path}: start without --ckpt_path.")
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:  # whose text advises to switch `weights_only` off
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
    """Keeps a run's checkpoints; subclasses say when they are saved. It saves nothing by itself.

    A fresh training in a folder that holds an earlier one first keeps that in `previous/`, as hard links.

    Args:
        dirpath: folder of the checkpoints, in the run's folder.
        made: what else the training replaces in the run's folder.
        **options: of ModelCheckpoint.
    """

    def __init__(self, dirpath: str | Path, made: Sequence[str] = (), **options: Any) -> None:
        self.folder = Path(dirpath)
        super().__init__(dirpath, save_top_k=0, enable_version_counter=False, **options)
        self.made = made

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the trainer write whole files, unless it was given another way to write."""
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO(type(pl_module).__name__)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep an earlier training that this one does not continue."""
        if trainer.is_global_zero and not trainer.ckpt_path:
            archive_previous(self.folder.parent, [self.folder.name, *self.made])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say which stage the checkpoint is of."""
        checkpoint[STAGE_KEY] = type(pl_module).__name__

    def save(self, trainer: Trainer, name: str = LAST_CHECKPOINT) -> None:
        """Save now; all ranks call this."""
        trainer.save_checkpoint(self.folder / name, weights_only=False)
        self._last_global_step_saved = trainer.global_step


def archive_previous(folder: Path, names: Sequence[str]) -> None:
    """Link files and folders of a run into its `previous/`, in place of its content.

    Files are replaced by renaming, so the links keep the earlier content and no room is needed until then.
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
