"""What a run shows in Weights & Biases beyond its numbers: which way is better, what belongs together, lineage."""

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
    """Sets up the page of a run, and keeps its artefacts with it when the run is online.

    - The summary of a metric is its best value, not its last.
    - All stages of one experiment carry the tag `codec-<fingerprint>`: priors and counts belong to a codec.
    - What a stage used and made are W&B artifacts. They are told apart by their content, so that a codec which one run
      made and another used is one artifact, and the lineage graph leads from stage to stage.

    Args:
        goals: direction of the metrics that are scores.
        codec_fingerprint: of the codec, where it is known before the run.
        used: what the stage reads: type ("codec", "prior", "likelihood", "features") and path.
        made: what it leaves, likewise.
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
        """Before anything is logged."""
        for logger in _wandb_loggers(trainer):
            for name, direction in self.goals.items():
                logger.experiment.define_metric(name, step_metric="trainer/global_step", summary=direction)
            if self.codec_fingerprint:
                add_tag(logger, self.codec_fingerprint)
            for kind, path in self.used:
                _send(logger, "use_artifact", kind, Path(path))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what was made."""
        for logger in _wandb_loggers(trainer):
            for kind, path in self.made:
                if Path(path).exists():
                    _send(logger, "log_artifact", kind, Path(path))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A training that is stopped by hand has made something, too."""
        if isinstance(exception, KeyboardInterrupt):
            self.on_fit_end(trainer, pl_module)


def _send(logger: LightningWandbLogger, how: str, kind: str, path: Path) -> None:
    """Tell the server about an artifact; a server that does not answer is no reason to lose a run."""
    if not _is_online(logger):
        return
    try:
        getattr(logger.experiment, how)(as_artifact(logger, kind, path))
    except (wandb.Error, ValueError, RuntimeError, OSError) as error:
        rank_zero_warn(f"Weights & Biases did not take {path} ({error}): the run goes on without it in its lineage.")


def add_tag(logger: LightningWandbLogger, codec_fingerprint: str) -> None:
    """Tag a run with its codec, in place of another one."""
    others = [tag for tag in logger.experiment.tags or () if not re.fullmatch(r"codec-[0-9a-f]{16}", tag)]
    logger.experiment.tags = (*others, f"codec-{codec_fingerprint}")


def tag_codec(trainer: Trainer, codec_fingerprint: str) -> None:
    """Tag the runs of a trainer whose codec became known, or another one."""
    for logger in _wandb_loggers(trainer):
        add_tag(logger, codec_fingerprint)


def as_artifact(logger: LightningWandbLogger, kind: str, path: Path) -> wandb.Artifact:
    """A file or folder as a W&B artifact; the same content gives the same artifact in every run."""
    artifact = wandb.Artifact(f"{logger.experiment.group or 'lass'}-{path.stem}", kind)
    artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
    return artifact


def _wandb_loggers(trainer: Trainer) -> list[Any]:
    """Those of the first process; others must not log."""
    return [x for x in trainer.loggers if isinstance(x, LightningWandbLogger)] if trainer.is_global_zero else []


def _is_online(logger: LightningWandbLogger) -> bool:
    """Whether artefacts can go along: lineage needs the server, and a copy of them without it would help nobody."""
    return not logger.experiment.offline and not logger.experiment.disabled
