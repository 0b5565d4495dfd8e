"""Fréchet distances between sets of images, on features of Inception (FID) or of another network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from lass.devices.numerics import widest_float
from lass.errors import LassError
from lass.metrics.features import in_colour

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def find_inception_weights(named: str | Path | None = None) -> Path | None:
    """Find the file with Inception's weights: `named`, else the file in torch's cache, else None.

    Raises:
        LassError: if `named` is given and does not exist.
    """
    if named is not None:
        if not Path(named).is_file():
            raise LassError(f"There are no Inception weights at {named}: download {INCEPTION_URL} to there.")
        return Path(named)
    cached = inception_cache()
    return cached if cached.is_file() else None


def inception_cache() -> Path:
    """Path of Inception's weights in torch's download cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]


class InceptionFeatures(nn.Module):
    """Feature network of FID, which maps images in [0, 1] to 2,048 features.

    Images are rounded to 8 bits and resized to 299×299 pixels.

    Args:
        weights: Path of the file of `INCEPTION_URL`.
        num_features: Number of features: 2048 for FID; 64, 192 or 768 selects an earlier layer.

    Raises:
        LassError: if the file does not hold these weights; it is unpickled with `weights_only` first, so that no code
            in it runs.

    Source: Heusel et al. 2017 (arXiv:1706.08500); network and weights of torch-fidelity.
    """

    def __init__(self, weights: str | Path, num_features: int = 2048) -> None:
        super().__init__()
        self.num_features = num_features
        try:
            # torchmetrics loads the file without `weights_only`, so files with other objects are rejected first.
            torch.load(weights, map_location="cpu", weights_only=True)
            network = NoTrainInceptionV3("inception-v3-compat", [str(num_features)], str(weights))
        except Exception as error:  # arbitrary bytes can raise any exception
            raise LassError(
                f"{weights} holds no Inception weights: replace it by {INCEPTION_URL}, or set --model.fid=false."
            ) from error
        self.network = network.requires_grad_(False)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch num_features"]:
        """Features of images in [0, 1] with 1 or 3 channels."""
        return self.network((in_colour(images) * 255).round().byte()).flatten(1)


class _Given(nn.Module):
    """Identity that replaces the network in torchmetrics, so that features computed once serve several distances."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistances(nn.Module):
    """Fréchet distances between real images and several sets of generated images; FID with `InceptionFeatures`.

    The distance is |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of the means and covariances of features. torchmetrics
    accumulates the statistics and sums them over all devices.

    Args:
        network: Module that maps images to features, (batch, num_features); has the attribute `num_features`.
        names: Names of the generated sets.

    Source: Heusel et al. 2017 (arXiv:1706.08500), Eq. 6.
    """

    distances: nn.ModuleDict

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network.eval()
        self.num_features = int(cast(Any, network).num_features)
        given = _Given(self.num_features)
        self.distances = nn.ModuleDict({name: FrechetInceptionDistance(given) for name in names})

    @property
    def least_images(self) -> int:
        """Minimum number of images per set; with fewer, the covariance is singular and the distance unreliable."""
        return self.num_features + 1

    @torch.no_grad()
    def update(self, real: Tensor, sets: Mapping[str, Tensor]) -> None:
        """Add real and generated images, (batch, channels, height, width); generated images are clipped to [0, 1]."""
        with torch.autocast(real.device.type, enabled=False):  # scores must not depend on the precision of the run
            features = self.network(real.float())
            for name, distance in self._items():
                distance.update(features.to(distance.device), real=True)
                distance.update(self.network(sets[name].float().clamp(0, 1)).to(distance.device), real=False)

    def _items(self) -> list[tuple[str, FrechetInceptionDistance]]:
        return [(name, cast(FrechetInceptionDistance, distance)) for name, distance in self.distances.items()]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrechetDistances:
        """Move the network; move the float64 sums of features only to devices that support float64."""
        self.network._apply(fn, recurse)
        if widest_float(fn(torch.zeros(1)).device) == torch.float64:
            self.distances._apply(fn, recurse)
        return self

    def compute(self) -> dict[str, float]:
        """Fréchet distance of each generated set, by name."""
        return {name: distance.compute().item() for name, distance in self._items()}
