"""Weights & Biases callback: directions of metrics, a tag for the codec, and the lineage of artefacts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from pytorch_lightning.utilities import rank_zero_warn

Direction = Literal["min", "max"]


class WandbCallback(Callback):
    """Configures a W&B run and, when it is online, uploads its artefacts.

    - The summary of a metric is its best value, not its last.
    - All runs with one codec have the tag `codec-<fingerprint>`, because priors and counts are valid for one codec.
    - Inputs and outputs of a stage are W&B artifacts, identified by their content. A codec that is the output of one
      run and an input of another is therefore one artifact, and the lineage graph connects the stages.

    Args:
        goals: Direction of each metric that is a score, "min" or "max".
        codec_fingerprint: Fingerprint of the codec, if it is known before the run.
        used: Inputs of the stage as pairs of type ("codec", "prior", "likelihood", "features") and path.
        made: Outputs of the stage as pairs of type and path.
    """

    def __init__(
        self,
        goals: Mapping[str, Direction],
        codec_fingerprint: str | None = None,
        used: Sequence[tuple[str, str | Path]] = (),
        made: Sequence[tuple[str, str | Path]] = (),
    ) -> None:
        self.goals, self.codec_fingerprint, self.used, self.made = goals, codec_fingerprint, used, made

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Define the metrics, tag the run and register its inputs, before anything is logged."""
        for logger in _wandb_loggers(trainer):
            for name, direction in self.goals.items():
                logger.experiment.define_metric(name, step_metric="trainer/global_step", summary=direction)
            if self.codec_fingerprint:
                add_tag(logger, self.codec_fingerprint)
            for kind, path in self.used:
                _send(logger, "use_artifact", kind, Path(path))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Upload the outputs of the stage."""
        for logger in _wandb_loggers(trainer):
            for kind, path in self.made:
                if Path(path).exists():
                    _send(logger, "log_artifact", kind, Path(path))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Upload the outputs after Ctrl-C, because an interrupted training has exported an artefact."""
        if isinstance(exception, KeyboardInterrupt):
            self.on_fit_end(trainer, pl_module)


def _send(logger: LightningWandbLogger, how: str, kind: str, path: Path) -> None:
    """Register an artifact with the server if the run is online; a failure is a warning and does not stop the run."""
    if not _is_online(logger):
        return
    try:
        getattr(logger.experiment, how)(as_artifact(logger, kind, path))
    except (wandb.Error, ValueError, RuntimeError, OSError) as error:
        rank_zero_warn(f"Weights & Biases did not take {path} ({error}): the run continues without it in its lineage.")


def add_tag(logger: LightningWandbLogger, codec_fingerprint: str) -> None:
    """Tag a run with its codec's fingerprint, replacing the tag of a previous codec."""
    others = [tag for tag in logger.experiment.tags or () if not re.fullmatch(r"codec-[0-9a-f]{16}", tag)]
    logger.experiment.tags = (*others, f"codec-{codec_fingerprint}")


def tag_codec(trainer: Trainer, codec_fingerprint: str) -> None:
    """Tag the W&B runs of a trainer with the codec's fingerprint, once it is known or has changed."""
    for logger in _wandb_loggers(trainer):
        add_tag(logger, codec_fingerprint)


def as_artifact(logger: LightningWandbLogger, kind: str, path: Path) -> wandb.Artifact:
    """Make a W&B artifact of a file or folder; equal content gives the same artifact in every run."""
    artifact = wandb.Artifact(f"{logger.experiment.group or 'lass'}-{path.stem}", kind)
    artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
    return artifact


def _wandb_loggers(trainer: Trainer) -> list[Any]:
    """Return the W&B loggers on rank 0 and an empty list on all other ranks, which must not log."""
    return [x for x in trainer.loggers if isinstance(x, LightningWandbLogger)] if trainer.is_global_zero else []


def _is_online(logger: LightningWandbLogger) -> bool:
    """Whether artefacts can be uploaded; offline runs would only store a useless copy, as lineage needs the server."""
    return not logger.experiment.offline and not logger.experiment.disabled
