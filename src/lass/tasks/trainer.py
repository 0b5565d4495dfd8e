"""Facts about a Lightning Trainer that its class does not declare."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Trainer


def datamodule_of(trainer: Trainer) -> Any:
    """The data module of the run; None for plain loaders."""
    return trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's data connector


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Whether Lightning runs a few batches only and switches loggers and checkpoints off."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined] # set by Lightning's constructor


def is_dry_run(trainer: Trainer) -> bool:
    """Whether the run must not write into its folder: `fast_dev_run`, or `enable_checkpointing=false`."""
    return is_fast_dev_run(trainer) or not trainer.checkpoint_callbacks
