"""Train a network that separates mixtures of images, on mixtures and their sources."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lass.data.mixing import mix
from lass.data.module import SourceDataModule
from lass.data.sources import SourceTuples
from lass.errors import LassError
from lass.methods.mask_unet import MaskUNet
from lass.metrics import best_permutation, psnr
from lass.report.display import display_of
from lass.tasks.trainer import datamodule_of
from lass.tasks.training import TrainingTask, at_least_float32


class ImageSupervisedTraining(TrainingTask):
    """Trains a network that separates mixtures of images, and saves it to `<default_root_dir>/network`.

    The data module gives tuples of sources (`--data.tuples=true`), which are mixed. The loss is the mean absolute error
    for the best order of the estimates, because the sources have no order.

    Args:
        network: Network, for the images and the number of sources of the data.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of batches of linear warm-up.
        weight_decay: Weight decay of AdamW.

    Raises:
        LassError: in `fit`, if the data has no tuples or does not fit the network.

    Source: Halperin et al. 2019 (arXiv:1811.12739) for L1; Yu et al. 2017 (arXiv:1607.00325) for the best order.
    """

    artifact: MaskUNet

    def __init__(
        self, network: MaskUNet, learning_rate: float = 1e-3, warmup_steps: int = 100, weight_decay: float = 0.0
    ) -> None:
        super().__init__(network, "val/psnr_db", "max", learning_rate, warmup_steps, weight_decay)

    def setup(self, stage: str) -> None:
        """Check that the data has tuples of sources and fits the network."""
        data = datamodule_of(self.trainer)
        if not isinstance(data, SourceDataModule) or not data.tuples:
            raise LassError("A network is trained on mixtures of known sources: set --data.tuples=true.")
        self.artifact.check_data(data)

    def training_step(self, batch: SourceTuples) -> Tensor:
        """Compute the loss of the network's output for mixtures of a batch of sources."""
        sources = batch.signals
        if not len(sources):  # a batch of padding, on one rank of a distributed run
            return sum((parameter.sum() * 0.0 for parameter in self.parameters()), sources.sum())
        estimates = at_least_float32(self.artifact(mix(sources)))
        loss = (in_best_order(estimates, sources) - sources).abs().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: SourceTuples, batch_index: int) -> None:
        """Log loss and PSNR of held-out mixtures, and show estimates of the first batch."""
        sources = batch.signals
        if not len(sources):
            return
        mixtures = mix(sources)
        estimates = in_best_order(at_least_float32(self.artifact(mixtures)), sources)
        scores = {
            "val/loss": (estimates - sources).abs().mean(),
            "val/psnr_db": psnr(estimates.flatten(0, 1), at_least_float32(sources).flatten(0, 1)).mean(),
        }
        for name, score in scores.items():
            self.log(name, score, batch_size=len(sources), prog_bar=name == self.monitor, sync_dist=True)
        display = display_of(self.artifact)
        if batch_index or self.trainer.sanity_checking or not self.trainer.is_global_zero or display is None:
            return
        columns = {"mixture": mixtures}
        for number in range(self.artifact.num_sources):
            columns |= {f"source {number + 1}": sources[:, number], f"estimate {number + 1}": estimates[:, number]}
        columns = {
            name: at_least_float32(images[: display.num_examples]).clamp(0, 1) for name, images in columns.items()
        }
        display.log(self.trainer, "val/separations", columns, None)


def in_best_order(
    estimates: Float[Tensor, "batch sources channels height width"],
    sources: Float[Tensor, "batch sources channels height width"],
) -> Float[Tensor, "batch sources channels height width"]:
    """Estimates in the order of the sources that has the smallest mean absolute error."""
    errors = (estimates.detach()[:, :, None] - sources[:, None]).abs().flatten(3).mean(3)
    order = best_permutation(-errors)
    return estimates.gather(1, order[:, :, None, None, None].expand_as(estimates))
