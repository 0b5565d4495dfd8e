"""Train a network that separates mixtures, on mixtures and their sources."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lass.data.mixing import mix
from lass.data.module import SourceDataModule
from lass.data.sources import SourceTuples
from lass.errors import LassError
from lass.methods.supervised import SupervisedSeparator
from lass.metrics.improvement import stabilised_si_sdr
from lass.report.display import display_of
from lass.report.wandb_callback import Direction
from lass.tasks.trainer import datamodule_of
from lass.tasks.training import TrainingTask, at_least_float32

Loss = Literal["si_sdr", "l1"]


class SupervisedTraining(TrainingTask):
    """Trains a network that separates mixtures, and saves it to `<default_root_dir>/network`.

    The data module gives tuples of one source per class (`--data.tuples=true`), which are mixed with its weights. Each
    output of the network is compared with the source of its class; outputs are not permuted.

    Args:
        network: Network, for the classes, sample rate and weights of the data.
        loss: "si_sdr" for the negative SI-SDR, mean over sources, which needs a network with `rescale`; "l1" for the
            mean absolute error.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of batches of linear warm-up.
        weight_decay: Weight decay of AdamW.

    Raises:
        LassError: if the loss is unknown or does not determine the scale of a network without `rescale`, or in `fit`
            if the data has no tuples, or other classes, weights or another sample rate than the network.

    Source: Luo and Mesgarani 2019 (arXiv:1809.07454), section III-C, for the SI-SDR; Défossez et al. 2019
    (arXiv:1911.13254), section 3.3, for L1.
    """

    artifact: SupervisedSeparator

    def __init__(
        self,
        network: SupervisedSeparator,
        loss: Loss = "si_sdr",
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        if loss not in ("si_sdr", "l1"):
            raise LassError(f"loss must be 'si_sdr' or 'l1', not {loss!r:.50}.")
        if loss == "si_sdr" and not network.rescale:
            raise LassError(
                "The loss si_sdr does not determine the scale of the estimates: set rescale=true for the network, or "
                "loss=l1."
            )
        super().__init__(network, "val/si_sdr_db", "max", learning_rate, warmup_steps, weight_decay)
        self.loss: Loss = loss
        by_class: dict[str, Direction] = {f"val/si_sdr_{name}_db": "max" for name in network.classes}
        self.goals = {"val/loss": "min", **by_class}
        self.weights: list[float] | None = None  # of the data module

    def setup(self, stage: str) -> None:
        """Check that the data has tuples of sources and fits the network, and the precision."""
        data = datamodule_of(self.trainer)
        if not isinstance(data, SourceDataModule) or not data.tuples:
            raise LassError("A network is trained on mixtures of known sources: set --data.tuples=true.")
        if self.trainer.precision in ("16-true", "bf16-true"):
            raise LassError(
                f"A network is not trained in {self.trainer.precision}, which has no Fourier transform: set "
                "--trainer.precision=bf16-mixed or 32-true."
            )
        self.artifact.check_data(data)
        self.weights = data.weights

    def training_step(self, batch: SourceTuples) -> Tensor:
        """Compute the loss of the network's output for mixtures of a batch of sources."""
        sources = batch.signals
        if not len(sources):  # a batch of padding, on one rank of a distributed run
            return sum((parameter.sum() * 0.0 for parameter in self.parameters()), sources.sum())
        loss = separation_loss(self.loss, self.artifact(mix(sources, self.weights)), sources)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: SourceTuples, batch_index: int) -> None:
        """Log the loss and the SI-SDR in dB of each class and their mean, and show estimates of the first batch."""
        sources = batch.signals
        if not len(sources):
            return
        mixtures = mix(sources, self.weights)
        estimates = self.artifact.estimate(mixtures)
        scores = stabilised_si_sdr(*(at_least_float32(x[:, :, 0]) for x in (estimates, sources))).mean(0)
        logged = {f"val/si_sdr_{name}_db": score for name, score in zip(self.artifact.classes, scores, strict=True)}
        logged |= {"val/si_sdr_db": scores.mean(), "val/loss": separation_loss(self.loss, estimates, sources)}
        for name, score in logged.items():
            self.log(name, score, batch_size=len(sources), prog_bar=name == self.monitor, sync_dist=True)
        display = display_of(self.artifact)
        if batch_index or self.trainer.sanity_checking or not self.trainer.is_global_zero or display is None:
            return
        columns = {"mixture": mixtures}
        for number, name in enumerate(self.artifact.classes):
            columns |= {name: sources[:, number], f"estimate of {name}": estimates[:, number]}
        columns = {name: at_least_float32(signals[: display.num_examples]) for name, signals in columns.items()}
        display.log(self.trainer, "val/separations", columns, None)


def separation_loss(
    loss: Loss,
    estimates: Float[Tensor, "batch sources 1 samples"],
    sources: Float[Tensor, "batch sources 1 samples"],
) -> Float[Tensor, ""]:
    """Loss of estimates in the order of the sources.

    Args:
        loss: "si_sdr" for the negative SI-SDR in dB, see `stabilised_si_sdr`; "l1" for the mean absolute error.
        estimates: Output of the network.
        sources: True sources.

    Returns:
        Mean over batch and sources.
    """
    estimates, sources = at_least_float32(estimates), at_least_float32(sources)
    if loss == "l1":
        return F.l1_loss(estimates, sources)
    return -stabilised_si_sdr(estimates[:, :, 0], sources[:, :, 0]).mean()
