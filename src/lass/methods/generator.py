"""Generator of single images, for separation with the prior of a GAN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import Artifact, load_artifact, register
from lass.errors import LassError, check_sizes

MAX_SIZE = 2**14  # limit of sizes from a file


@register
class ImageGenerator(Artifact):
    """Convolutional network that maps standard normal latents to images in [0, 1]. `lass.tasks.GANTraining` trains it.

    Args:
        shape: Shape of an image, (channels, height, width); the sizes must be divisible by 4.
        latent_dim: Number of latents of an image.
        width: Channels at half of the resolution; twice as many at a quarter.

    Raises:
        LassError: if a setting is out of range.

    Source: DCGAN, Radford et al. 2016 (arXiv:1511.06434), with two strided convolutions.
    """

    kind = "generator"

    def __init__(self, shape: Sequence[int] = (1, 28, 28), latent_dim: int = 100, width: int = 64) -> None:
        super().__init__()
        if len(shape) != 3:
            raise LassError(f"shape must be (channels, height, width), not {tuple(shape)}.")
        for size in shape:
            check_sizes(MAX_SIZE, **{"each size of shape": size})
        channels, height, side = shape
        if height % 4 or side % 4:
            raise LassError(f"height and width must be divisible by 4, not {height} and {side}.")
        check_sizes(MAX_SIZE, latent_dim=latent_dim, width=width)
        self.image_shape, self.latent_dim = tuple(shape), latent_dim
        self.config = {"shape": list(shape), "latent_dim": latent_dim, "width": width}
        coarse = (2 * width, height // 4, side // 4)
        self.network = nn.Sequential(
            nn.Linear(latent_dim, coarse[0] * coarse[1] * coarse[2], bias=False),
            nn.Unflatten(1, coarse),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latents: Float[Tensor, "batch latent_dim"]) -> Float[Tensor, "batch channels height width"]:
        """Images of the latents."""
        return self.network(latents)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageGenerator:
        """Load a trained generator from its folder; see `lass.artifacts.load_artifact`."""
        return cast(ImageGenerator, load_artifact(folder, cls.kind))
