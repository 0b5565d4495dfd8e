"""What the training stages share: checkpoints to resume from, the best artefact so far, the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lass.artifacts import Artifact, fingerprint, load_artifact
from lass.errors import LassError
from lass.report.dashboard import Dashboard, Direction, tag_codec

CHECKPOINT_FOLDER, LAST_CHECKPOINT = "checkpoints", "last.ckpt"  # in a run's folder


def check_same_codec(checkpoint: dict[str, Any], codec_fingerprint: str) -> None:
    """Raise LassError if a checkpoint is of a run with another codec."""
    if checkpoint.get("codec_fingerprint") != codec_fingerprint:
        raise LassError(
            f"The checkpoint is of a run with the codec {checkpoint.get('codec_fingerprint')}, but this codec is "
            f"{codec_fingerprint}: start without --ckpt_path, or name the codec it was made with."
        )


class ExportBest(Callback):
    """After a validation that was the best so far, save the module's artefact into the run's folder.

    So a killed run leaves its best model behind, and the next stage can already use it.

    Args:
        monitor: name of the logged score.
        mode: whether lower ("min") or higher ("max") is better.
    """

    def __init__(self, monitor: str, mode: str) -> None:
        self.monitor, self.sign = monitor, {"min": -1.0, "max": 1.0}[mode]
        self.best = -math.inf

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints, so that a resumed run does not replace a better artefact."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: Trainer, pl_module: TrainingTask) -> None:
        """Compare and save."""
        if trainer.sanity_checking or trainer.fast_dev_run or trainer.state.fn != "fit":
            return
        score = self.sign * trainer.callback_metrics[self.monitor].item()
        if score > self.best:
            self.best = score
            if trainer.is_global_zero:
                pl_module.artifact.save_pretrained(pl_module.artifact_folder)
                if pl_module.artifact.kind == "codec":
                    tag_codec(trainer, fingerprint(pl_module.artifact))


class TrainingTask(LightningModule):
    """Base of the stages that train a network by gradient descent and leave it as an artefact.

    Args:
        artifact: the network; saved to `<trainer.default_root_dir>/<artifact.kind>`.
        monitor, mode: the validation score that decides which version is kept.
        learning_rate: peak of the schedule (linear warm-up, then a half cosine to zero), for AdamW.
        warmup_steps: length of the warm-up.
        weight_decay: of AdamW.
    """

    #: Direction of further scores, for the summary of a run.
    goals: Mapping[str, Direction] = MappingProxyType({})

    def __init__(
        self,
        artifact: Artifact,
        monitor: str,
        mode: str,
        learning_rate: float,
        warmup_steps: int,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.artifact, self.monitor, self.mode = artifact.train(), monitor, mode  # one that was loaded is in eval mode
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay

    @property
    def artifact_folder(self) -> Path:
        """Where the next stage finds what this one made."""
        return Path(self.trainer.default_root_dir) / self.artifact.kind

    def configure_callbacks(self) -> list[Callback]:
        """Checkpoints (`--ckpt_path=last` resumes), the best artefact, and the page of the run."""
        folder = Path(self.trainer.default_root_dir) / CHECKPOINT_FOLDER
        checkpoint = ModelCheckpoint(
            folder, "best", self.monitor, mode=self.mode, save_last=True, enable_version_counter=False
        )
        return [checkpoint, ExportBest(self.monitor, self.mode), self.dashboard()]

    def on_fit_start(self) -> None:
        """A resumed run may never export again: what it has exported before says which codec it is about."""
        if self.artifact.kind == "codec" and self.trainer.ckpt_path and self.artifact_folder.is_dir():
            tag_codec(self.trainer, fingerprint(load_artifact(self.artifact_folder, self.artifact.kind)))

    def dashboard(self, **facts: Any) -> Dashboard:
        """The page of the run; subclasses add what they know."""
        return Dashboard(
            {self.monitor: self.mode, **self.goals}, made=[(self.artifact.kind, self.artifact_folder)], **facts
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log where the schedule is."""
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and cosine decay, stepped every batch."""
        optimizer = torch.optim.AdamW(
            self.parameters(), self.learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay
        )
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            progress = min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))
            return (
                (step + 1) / self.warmup_steps if step < self.warmup_steps else 0.5 * (1 + math.cos(math.pi * progress))
            )

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
