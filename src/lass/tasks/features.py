"""Train the features for a Fréchet distance by contrastive learning (SimCLR)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lass.data.mixing import mix_neighbours
from lass.data.module import weights_of
from lass.data.sources import Sources
from lass.errors import check_number
from lass.metrics import ImageFeatures
from lass.tasks.trainer import datamodule_of
from lass.tasks.training import TrainingTask, at_least_float32

NUM_PROJECTED = 64  # dimension of the projection in which views are compared


class FeatureTraining(TrainingTask):
    """Trains ImageFeatures with a contrastive loss and saves them to `<default_root_dir>/features`.

    Two random views of an image are trained to be more similar than views of different images. Half of the images are
    mixtures of two, with the mixing weights of the data module, so that the features distinguish mixtures from sources:
    a Fréchet distance between estimates and sources has to detect residual mixing.

    Args:
        features: Network to be trained.
        temperature: Temperature of the softmax over all other views.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of batches of linear warm-up.

    Source: Chen et al. 2020 (arXiv:2002.05709), Eq. 1 and Algorithm 1.
    """

    def __init__(
        self,
        features: ImageFeatures,
        temperature: float = 0.2,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(features, "val/top_1", "max", learning_rate, warmup_steps)
        check_number("temperature", temperature, above=0)
        self.temperature = temperature
        self.weights: list[float] | None = None  # of the data module
        # The loss acts on a projection that is not exported: the features can keep what the projection discards.
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(features.num_features, NUM_PROJECTED))

    def setup(self, stage: str) -> None:
        """Take the mixing weights of the data."""
        self.weights = weights_of(datamodule_of(self.trainer))

    def training_step(self, batch: Sources) -> Tensor:
        """Compute the loss: cross-entropy of identifying the other view of each image among all views."""
        loss, top_1 = self._compare(batch.signals)
        self.log_dict({"train/loss": loss, "train/top_1": top_1})
        return loss

    def validation_step(self, batch: Sources) -> None:
        """Log the loss on held-out images, and `val/top_1`, the fraction of views whose other view is the nearest."""
        loss, top_1 = self._compare(batch.signals)
        scores = {"val/loss": loss, "val/top_1": top_1}
        for name, score in scores.items():
            self.log(name, score, batch_size=len(batch.signals), prog_bar=name == self.monitor, sync_dist=True)

    def _compare(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        half = len(sources) // 2
        mixtures = mix_neighbours(sources, weights=self.weights)[:half]
        images = torch.cat([mixtures, sources[half:]])
        views = torch.cat([random_view(at_least_float32(images)) for _ in range(2)]).to(sources.dtype)
        vectors = F.normalize(at_least_float32(self.projection(self.artifact(views))), dim=1)
        similarity = vectors @ vectors.T / self.temperature
        similarity.fill_diagonal_(-math.inf)
        others = torch.arange(len(views), device=views.device).roll(len(images))
        loss = F.cross_entropy(similarity, others)
        return loss, (similarity.argmax(1) == others).float().mean()


def random_view(images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
    """Augment images: random crop (70 to 100 % of each side) at full size, random flip, gain and offset per channel."""
    num = len(images)
    scale = images.new_empty(num).uniform_(0.7, 1.0)
    shift = images.new_empty(num, 2).uniform_(-1, 1) * (1 - scale)[:, None]
    mirror = torch.randint(2, (num,), device=images.device).to(images) * 2 - 1
    affine = images.new_zeros(num, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = scale * mirror, scale, shift
    views = F.grid_sample(images, F.affine_grid(affine, list(images.shape), align_corners=False), align_corners=False)
    gain = images.new_empty(num, images.shape[1], 1, 1).uniform_(0.8, 1.2)
    lift = images.new_empty(num, images.shape[1], 1, 1).uniform_(-0.1, 0.1)
    return (views * gain + lift).clamp(0, 1)
