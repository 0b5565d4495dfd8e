"""Train the features of a Fréchet distance: two views of one image are to be more alike than those of two images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lass.data.mixing import mix
from lass.data.sources import Sources
from lass.errors import check_number
from lass.metrics import ImageFeatures
from lass.tasks.training import TrainingTask, at_least_float32

NUM_PROJECTED = 64  # channels in which views are compared


class FeatureTraining(TrainingTask):
    """Trains ImageFeatures and leaves them in `<default_root_dir>/features`.

    Half of the images are mixtures of two, so that features tell a mixture from its sources: that is what a Fréchet
    distance of estimates has to see.

    Args:
        features: the network.
        temperature: of the softmax over all other views.
        learning_rate: peak, for AdamW.
        warmup_steps: batches until the peak.

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
        # Views are compared behind one more layer, which is thrown away: what it drops, the features may keep.
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(features.num_features, NUM_PROJECTED))

    def training_step(self, batch: Sources) -> Tensor:
        """Cross-entropy of finding an image's other view."""
        loss, top_1 = self._compare(batch.signals)
        self.log_dict({"train/loss": loss, "train/top_1": top_1})
        return loss

    def validation_step(self, batch: Sources) -> None:
        """The same on held-out images; `val/top_1` is how often the other view is the nearest."""
        loss, top_1 = self._compare(batch.signals)
        scores = {"val/loss": loss, "val/top_1": top_1}
        self.log_dict(scores, batch_size=len(batch.signals), prog_bar=True, sync_dist=True)

    def _compare(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        half = len(sources) // 2
        mixtures = mix(torch.stack([sources, sources.roll(1, dims=0)], 1))[:half]
        images = torch.cat([mixtures, sources[half:]])
        views = torch.cat([random_view(at_least_float32(images)) for _ in range(2)]).to(sources.dtype)
        vectors = F.normalize(at_least_float32(self.projection(self.artifact(views))), dim=1)
        similarity = vectors @ vectors.T / self.temperature
        similarity.fill_diagonal_(-math.inf)
        others = torch.arange(len(views), device=views.device).roll(len(images))
        loss = F.cross_entropy(similarity, others)
        return loss, (similarity.argmax(1) == others).float().mean()


def random_view(images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
    """A random part (70 to 100 % of each side) at full size, mirrored or not, lighter or darker in each channel."""
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
