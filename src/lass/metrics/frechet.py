"""Fréchet distances between sets of images: FID with Inception's features, or on features of a network of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from lass.devices.numerics import widest_float
from lass.errors import LassError
from lass.metrics.features import ImageFeatures, in_colour

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def find_inception_weights(named: str | Path | None = None) -> Path | None:
    """The file with Inception's weights: the one that is named, or the one in torch's cache; None if that is not there.

    Raises:
        LassError: if the file that is named is not there.
    """
    if named is not None:
        if not Path(named).is_file():
            raise LassError(f"There are no Inception weights at {named}: download {INCEPTION_URL} to there.")
        return Path(named)
    cached = inception_cache()
    return cached if cached.is_file() else None


def inception_cache() -> Path:
    """Where torch keeps a download of Inception's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]


class InceptionFeatures(nn.Module):
    """The network of FID: images in [0, 1] to 2,048 features, as 8-bit images that are resized to 299×299.

    Args:
        weights: file of `INCEPTION_URL`.
        num_features: 2048 for FID; 64, 192 or 768 for those of an earlier layer.

    Raises:
        LassError: if the file holds something else; it is never unpickled unsafely.

    Source: Heusel et al. 2017 (arXiv:1706.08500); network and weights of torch-fidelity.
    """

    def __init__(self, weights: str | Path, num_features: int = 2048) -> None:
        super().__init__()
        self.num_features = num_features
        try:
            # The library below reads the file without this protection, so whatever else it holds is refused here.
            torch.load(weights, map_location="cpu", weights_only=True)
            network = NoTrainInceptionV3("inception-v3-compat", [str(num_features)], str(weights))
        except Exception as error:  # bytes that are no such file can raise whatever they spell
            raise LassError(
                f"{weights} holds no Inception weights: replace it by {INCEPTION_URL}, or set --model.fid=false."
            ) from error
        self.network = network.requires_grad_(False)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch num_features"]:
        """Features of images in [0, 1], grey or in colour."""
        return self.network((in_colour(images) * 255).round().byte()).flatten(1)


class _Given(nn.Module):
    """Stands where torchmetrics wants a network: features that are computed once serve several distances."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistances(nn.Module):
    """How far several sets of images are from the real ones: |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of their features.

    The statistics are torchmetrics' and are put together over all devices. With `InceptionFeatures` that is FID.

    Args:
        network: images to features; has `num_features`.
        names: of the sets.

    Source: Heusel et al. 2017 (arXiv:1706.08500), Eq. 6.
    """

    distances: nn.ModuleDict

    def __init__(self, network: InceptionFeatures | ImageFeatures, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network.eval()
        given = _Given(network.num_features)
        self.distances = nn.ModuleDict({name: FrechetInceptionDistance(given) for name in names})

    @property
    def least_images(self) -> int:
        """So many are needed in each set: with fewer the covariance is singular, and the distance says little."""
        return self.network.num_features + 1

    @torch.no_grad()
    def update(self, real: Tensor, sets: Mapping[str, Tensor]) -> None:
        """Add images, (batch, channels, height, width); values outside [0, 1] are clipped, as in a file."""
        with torch.autocast(real.device.type, enabled=False):  # scores do not depend on the precision of a run
            features = self.network(real.float())
            for name, distance in self._items():
                distance.update(features.to(distance.device), real=True)
                distance.update(self.network(sets[name].float().clamp(0, 1)).to(distance.device), real=False)

    def _items(self) -> list[tuple[str, FrechetInceptionDistance]]:
        return [(name, cast(FrechetInceptionDistance, distance)) for name, distance in self.distances.items()]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrechetDistances:
        """Move the network, and the sums of features, which are float64, unless the device has no such numbers."""
        self.network._apply(fn, recurse)
        if widest_float(fn(torch.zeros(1)).device) == torch.float64:
            self.distances._apply(fn, recurse)
        return self

    def compute(self) -> dict[str, float]:
        """The distance of every set."""
        return {name: distance.compute().item() for name, distance in self._items()}
