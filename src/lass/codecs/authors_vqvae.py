"""The VQ-VAE of the authors' experiments on MNIST; `lass.importers.authors_images` reads its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import register
from lass.codecs.image_codec import ImageVQCodec
from lass.codecs.image_vqvae import DOWNSAMPLING
from lass.codecs.quantizer import VectorQuantizer
from lass.errors import check_sizes


class LeakyBlock(nn.Module):
    """Residual block x + f(x), where f is a 3×3 and a 1×1 convolution, each after a leaky ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LeakyReLU(), nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        return x + self.block(x)


@register
class AuthorsVQVAE(ImageVQCodec):
    """VQ-VAE for images in [0, 1] of one fixed size, with one code per 4×4 pixels; created by `lass import authors`.

    Unlike in `ImageVQVAE`, all layers have the same width, which is also that of the codebook vectors. The batch
    normalisation of the original is part of the convolutions, so this network is for inference only. See
    `ImageVQCodec`.

    Args:
        image_shape: Shape of the images, (channels, height, width); height and width are multiples of 4.
        num_codes: Codebook size K.
        width: Channels of all layers, of the latents and of the codebook vectors.

    Source: `VectorQuantizedVAE` in the authors' code, gladia-research-group/latent-autoregressive-source-separation.
    """

    def __init__(self, image_shape: Sequence[int] = (1, 28, 28), num_codes: int = 256, width: int = 128) -> None:
        super().__init__(image_shape, num_codes, DOWNSAMPLING)
        check_sizes(2**16, width=width)
        self.config = {"image_shape": list(image_shape), "num_codes": num_codes, "width": width}
        channels = image_shape[0]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            LeakyBlock(width),
            LeakyBlock(width),
        )
        self.quantizer = VectorQuantizer(num_codes, width)
        self.decoder = nn.Sequential(
            LeakyBlock(width),
            LeakyBlock(width),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def encode_images(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """See ImageVQCodec."""
        return self.encoder(images)

    def decode_latents(
        self, latents: Float[Tensor, "batch dim rows columns"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Decode latents into images."""
        return self.decoder(latents)
