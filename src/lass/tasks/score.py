"""Train a denoiser, and with it the score, of single sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lass.data.module import check_sample_rate
from lass.data.signals import HasImageShape
from lass.data.sources import Sources
from lass.denoisers import TrainableDenoiser
from lass.denoisers.sampling import karras_levels, sample_sources
from lass.errors import LassError, check_number
from lass.report.display import display_of
from lass.tasks.trainer import datamodule_of
from lass.tasks.training import TrainingTask, at_least_float32

NUM_LEVELS = 25  # noise levels of the logged samples


class ScoreTraining(TrainingTask):
    """Trains a denoiser on single sources and saves the moving average of its weights to `<default_root_dir>/denoiser`.

    Args:
        denoiser: Network to be trained. It is trained class-conditionally if it has classes.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of batches of linear warm-up.
        weight_decay: Weight decay of AdamW.
        average_decay: Decay of the moving average of the weights per step. It is smaller in the first steps, n / (n +
            10) after n of them, so that the initial weights do not remain.

    Source: Karras et al. 2022 (arXiv:2206.00364); noise-conditional scores of Song and Ermon 2019 (arXiv:1907.05600).
    """

    artifact: TrainableDenoiser

    def __init__(
        self,
        denoiser: TrainableDenoiser,
        learning_rate: float = 1e-3,
        warmup_steps: int = 200,
        weight_decay: float = 0.0,
        average_decay: float = 0.999,
    ) -> None:
        super().__init__(denoiser, "val/loss", "min", learning_rate, warmup_steps, weight_decay)
        check_number("average_decay", average_decay, at_least=0, below=1)
        self.average_decay = average_decay
        self.num_averaged = 0  # steps of the optimizer after which the average was moved
        self.average = AveragedModel(denoiser, multi_avg_fn=self._move_average, use_buffers=False).requires_grad_(False)

    @property
    def exported(self) -> TrainableDenoiser:
        """The denoiser with the average of the weights."""
        return cast(TrainableDenoiser, self.average.module)

    def setup(self, stage: str) -> None:
        """Check that the data fits the denoiser.

        Raises:
            LassError: if the data consists of tuples, or has another sample rate, or if the precision is another one
                than float32 or a mixed one: the average would not move in bfloat16.
        """
        data = datamodule_of(self.trainer)
        if getattr(data, "tuples", False):
            raise LassError("A denoiser is trained on single sources: set --data.tuples=false.")
        check_sample_rate(data, self.artifact, "the denoiser", "train a denoiser for")
        if self.trainer.precision.endswith("-true") and self.trainer.precision != "32-true":
            raise LassError(
                f"A denoiser is not trained in {self.trainer.precision}: set --trainer.precision=bf16-mixed or 32-true."
            )

    def training_step(self, batch: Sources) -> Tensor:
        """Compute the loss of the network."""
        loss = self.artifact.loss(at_least_float32(batch.signals), batch.labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average of the weights after a step of the optimizer; see also `TrainingTask`.

        Lightning's WeightAveraging is no help: it gives the weights back before our callback exports them.
        """
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.trainer.global_step > self.num_averaged:  # not after a batch whose gradients are accumulated
            self.average.update_parameters(self.artifact)
            self.num_averaged = self.trainer.global_step

    def on_train_start(self) -> None:
        """Take the number of steps of a resumed run."""
        self.num_averaged = self.trainer.global_step

    def validation_step(self, batch: Sources) -> None:
        """Log the loss of the averaged network on held-out sources."""
        loss = self.exported.loss(at_least_float32(batch.signals), batch.labels)
        self.log("val/loss", loss, batch_size=len(batch.signals), prog_bar=True, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log samples of the averaged network, drawn with the same random numbers after every validation."""
        denoiser = self.exported
        display = display_of(denoiser)
        if self.trainer.sanity_checking or not self.trainer.is_global_zero or display is None:
            return
        classes = None
        if denoiser.num_classes:
            classes = torch.arange(display.num_examples, device=self.device) % denoiser.num_classes
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(display.num_examples, *denoiser.shape, generator=generator).to(self.device)
        levels = karras_levels(NUM_LEVELS, denoiser.sigma_min, denoiser.sigma_max)
        samples = sample_sources(denoiser, noise, levels, classes)
        low, high = (0.0, 1.0) if isinstance(denoiser, HasImageShape) else (-1.0, 1.0)
        captions = None if classes is None else [f"class {label}" for label in classes.tolist()]
        display.log(self.trainer, "val/samples", {"sample": samples.clamp(low, high)}, captions)

    def _move_average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        decay = min(self.average_decay, float(num_averaged) / (float(num_averaged) + 10))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1 - decay)
