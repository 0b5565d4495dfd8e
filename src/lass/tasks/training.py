"""Base class of the training tasks: export of the best model, checkpoints, random numbers, optimizer and schedule."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from lass.artifacts import CONFIG_FILE, Artifact, fingerprint, load_artifact
from lass.errors import LassError, check_number
from lass.report.wandb_callback import Direction, WandbCallback, tag_codec
from lass.tasks.checkpoints import BEST_CHECKPOINT, CHECKPOINT_FOLDER, RunCheckpoint
from lass.tasks.trainer import is_dry_run

TRAINING, VALIDATION = range(2)  # identifiers of random number streams


def check_same_codec(checkpoint: dict[str, Any], codec_fingerprint: str | None) -> None:
    """Raise LassError if a checkpoint belongs to a run with another codec."""
    if checkpoint.get("codec_fingerprint") != codec_fingerprint:
        raise LassError(
            f"The checkpoint is of a run with the codec {checkpoint.get('codec_fingerprint')}, but this codec is "
            f"{codec_fingerprint}: start without --ckpt_path, or name the codec it was made with."
        )


def seed_all(*entropy: int) -> None:
    """Seed torch (CPU and all accelerators), NumPy and Python with a hash of non-negative integers."""
    (seed,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64).tolist()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, because losses and scores are means of small differences."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class BestAndLast(RunCheckpoint):
    """Exports the best model and saves `best.ckpt` and `last.ckpt` after each validation.

    The model is exported, and `best.ckpt` saved, whenever the score improves; `last.ckpt` is always saved. The next
    stage can therefore use the best model so far even if the run is killed. A training that ends or is stopped before
    its first validation exports the current model.

    Args:
        dirpath: Folder of the checkpoints; see `RunCheckpoint`.
        made: Name of the exported artefact in the run's folder.
        monitor: Name of the logged score.
        mode: "min" if lower scores are better, "max" if higher ones are.
    """

    def __init__(self, dirpath: str | Path, made: str, monitor: str, mode: Direction) -> None:
        super().__init__(dirpath, [made], monitor=monitor, mode=mode)
        self.best: float | None = None
        self.best_step: int | None = None  # optimizer steps of the exported version

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark the last epoch as unfinished, so that a resumed training continues after its last batch.

        Lightning would count that epoch as done, even if the training ended in the middle of it.
        """
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        for epochs in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            epochs["processed"] = epochs["completed"] = epochs["started"] - 1

    def state_dict(self) -> dict[str, Any]:
        """State for checkpoints: the best score and its step, so that a resumed run keeps a better model."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the best score if its model is not in the run's folder."""
        super().on_train_start(trainer, pl_module)
        if not (_task(pl_module).artifact_folder / CONFIG_FILE).is_file():
            self.best = self.best_step = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the model if the score has improved, and save the checkpoints.

        Raises:
            LassError: if the score is not finite.
        """
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        score = trainer.callback_metrics[str(self.monitor)].item()
        if not math.isfinite(score):
            raise _task(pl_module).diverged(f"{self.monitor} is {score}")
        is_best = self.best is None or (score < self.best if self.mode == "min" else score > self.best)
        if is_best:
            self._export(trainer, pl_module, score)
            self.save(trainer, BEST_CHECKPOINT)
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the model if it was never validated, save `last.ckpt`, and print which version was exported."""
        if self.best is None:
            self._export(trainer, pl_module, None)
        if self._last_global_step_saved != trainer.global_step:
            self.save(trainer)
        score = "not validated" if self.best is None else f"{self.monitor} = {self.best:.4g}, the best"
        rank_zero_info(f"{_task(pl_module).artifact_folder} is the version of step {self.best_step} ({score}).")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Export the model of a training stopped by Ctrl-C or SIGTERM before its first validation.

        A model that an earlier training has exported to the folder is not replaced.
        """
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        is_own = trainer.ckpt_path or not (_task(pl_module).artifact_folder / CONFIG_FILE).is_file()
        if stopped and trainer.state.fn == "fit" and self.best is None and trainer.global_step and is_own:
            self._export(trainer, pl_module, None)

    def _export(self, trainer: Trainer, pl_module: LightningModule, score: float | None) -> None:
        if trainer.is_global_zero:
            _task(pl_module).export()
        self.best, self.best_step = score, trainer.global_step


def _task(module: LightningModule) -> TrainingTask:
    """The module as what it must be: `BestAndLast` is used by `TrainingTask` only."""
    assert isinstance(module, TrainingTask)
    return module


class TrainingTask(LightningModule):
    """Base class of the tasks that train a network by gradient descent and export it as an artefact.

    Args:
        artifact: Network; exported to `<trainer.default_root_dir>/<artifact.kind>`.
        monitor: Name of the validation score that selects the exported version.
        mode: "min" if lower scores are better, "max" if higher ones are.
        learning_rate: Peak learning rate of AdamW (linear warm-up, then a half cosine to zero).
        warmup_steps: Length of the warm-up in batches.
        weight_decay: Weight decay of AdamW.
    """

    #: Directions of the scores other than `monitor`, for the summary of a run.
    goals: Mapping[str, Direction] = MappingProxyType({})
    #: Decay rates of AdamW's moments.
    betas: ClassVar[tuple[float, float]] = (0.9, 0.95)

    def __init__(
        self,
        artifact: Artifact,
        monitor: str,
        mode: Direction,
        learning_rate: float,
        warmup_steps: int,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("learning_rate", learning_rate, above=0)
        check_number("warmup_steps", warmup_steps, at_least=0, whole=True)
        check_number("weight_decay", weight_decay, at_least=0)
        self.artifact, self.monitor, self.mode = artifact.train(), monitor, mode  # loaded artefacts are in eval mode
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.seed: int | None = None  # seed of the process, or of the run that is resumed
        # The trainer's precision converts the module; the exported artefact has the data types of the constructor.
        self._dtypes = {name: tensor.dtype for name, tensor in artifact.state_dict().items()}

    @property
    def artifact_folder(self) -> Path:
        """Folder of the exported artefact, which the next stage loads."""
        return Path(self.trainer.default_root_dir) / self.artifact.kind

    @property
    def exported(self) -> Artifact:
        """The network that is exported, shaped like `artifact`."""
        return self.artifact

    def configure_callbacks(self) -> list[Callback]:
        """Return the W&B callback and, except in a dry run, the callback that saves checkpoints and the best model."""
        if is_dry_run(self.trainer):
            rank_zero_info("This is a dry run, without checkpoints: it saves nothing.")
            return [self.wandb_callback()]
        folder = Path(self.trainer.default_root_dir) / CHECKPOINT_FOLDER
        return [BestAndLast(folder, self.artifact.kind, self.monitor, self.mode), self.wandb_callback()]

    def on_fit_start(self) -> None:
        """Set the seed, and tag a resumed run with the codec that it has exported, as it may never export another."""
        self.seed = self._run_seed
        num_parameters = sum(x.numel() for x in self.artifact.parameters() if x.requires_grad)
        rank_zero_info(f"Training: {type(self.artifact).__name__}, {num_parameters:,} parameters.")
        if self.artifact.kind == "codec" and self.trainer.ckpt_path and (self.artifact_folder / CONFIG_FILE).is_file():
            tag_codec(self.trainer, fingerprint(load_artifact(self.artifact_folder, self.artifact.kind)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the seed, and the class and configuration of the network."""
        checkpoint["seed"] = self.seed
        checkpoint["artifact"] = {"class": type(self.artifact).__name__, **self.artifact.config}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the seed of the stopped run.

        Raises:
            LassError: if the network in the checkpoint has another class or configuration.
        """
        then, now = checkpoint.get("artifact", {}), {"class": type(self.artifact).__name__, **self.artifact.config}
        for name in {**then, **now}:
            if then.get(name) != now.get(name):
                raise LassError(
                    f"The checkpoint is of a {self.artifact.kind} with {name} = {then.get(name)!r}, but this run's has "
                    f"{now.get(name)!r}: start without --ckpt_path, or set what the checkpoint has."
                )
        self.seed = checkpoint["seed"]
        torch.manual_seed(self.seed)  # determines the order of batches in the data module

    @property
    def _run_seed(self) -> int:
        return torch.initial_seed() if self.seed is None else self.seed

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random numbers of a batch (dropout, restarts of codes, views) by (seed, rank, epoch, batch).

        A resumed training therefore draws the random numbers of an uninterrupted one, independently of those drawn in
        validation and by data modules.
        """
        seed_all(self._run_seed, TRAINING, self.global_rank, self.current_epoch, batch_idx)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Seed the random numbers of a batch by (seed, rank, batch).

        They are equal in all validations, so that differences of scores are due to the network alone.
        """
        seed_all(self._run_seed, VALIDATION, self.global_rank, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop a diverged training.

        Raises:
            LassError: if the loss is not finite.
        """
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and not math.isfinite(value := loss.item()):
            raise self.diverged(f"the loss is {value}")

    def diverged(self, symptom: str) -> LassError:
        """Return the error for a training with a non-finite loss, score or weight; `symptom` is the cause named."""
        kept = f"; {self.artifact_folder} holds the best version before" if self.artifact_folder.is_dir() else ""
        wider = " or --trainer.precision=bf16-mixed" if self.trainer.precision.startswith("16-") else ""
        return LassError(
            f"The training diverged, {symptom} at step {self.global_step}: set a smaller --model.learning_rate{wider}"
            f"{kept}."
        )

    def export(self) -> None:
        """Save the current artefact, in the data types of its construction instead of the trainer's precision.

        Raises:
            LassError: if a weight is not finite; the previously exported artefact is kept.
        """
        artifact = self.exported
        state = artifact.state_dict()
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise self.diverged("there are weights that are not finite")
        if any(tensor.dtype != self._dtypes[name] for name, tensor in state.items()):
            artifact = copy.deepcopy(artifact)
            for name, tensor in [*artifact.named_parameters(), *artifact.named_buffers()]:
                tensor.data = tensor.data.to(self._dtypes.get(name, tensor.dtype))
        artifact.save_pretrained(self.artifact_folder)
        if artifact.kind == "codec":
            tag_codec(self.trainer, fingerprint(artifact))

    def wandb_callback(self, **facts: Any) -> WandbCallback:
        """Return the W&B callback of the run; subclasses pass further arguments of `WandbCallback`."""
        return WandbCallback(
            {self.monitor: self.mode, **self.goals}, made=[(self.artifact.kind, self.artifact_folder)], **facts
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the learning rate."""
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        """Return AdamW with linear warm-up and cosine decay, stepped every batch."""
        eps = max(1e-8, torch.finfo(next(self.parameters()).dtype).smallest_normal)  # 1e-8 is 0 in float16
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, self.learning_rate, betas=self.betas, eps=eps, weight_decay=self.weight_decay
        )
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            progress = min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))
            return (
                (step + 1) / self.warmup_steps if step < self.warmup_steps else 0.5 * (1 + math.cos(math.pi * progress))
            )

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
