"""The VQ-VAE for images: two stride-2 convolutions each way, residual blocks, sigmoid output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import register
from lass.codecs.image_codec import ImageVQCodec
from lass.codecs.quantizer import VectorQuantizer
from lass.errors import check_number, check_sizes

DOWNSAMPLING = 4  # two convolutions of stride 2


Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


class VQVAEOutput(NamedTuple):
    """What training needs from one pass."""

    reconstruction: Tensor  # like the signal
    codes: Tensor  # (batch, height / 4, width / 4)
    commitment_loss: Tensor  # scalar
    latents: Tensor  # (batch, latent_dim, height / 4, width / 4), not quantised


class ResidualBlock(nn.Module):
    """x + f(x) with a 3×3 (or `kernel_size`) and a 1×1 convolution."""

    def __init__(self, width: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        return x + self.block(x)


def initialise(layer: Convolution) -> None:
    """He et al. 2015 (arXiv:1502.01852), Eq. 10: torch's default shrinks the latents until all share one code."""
    taps: int | float = math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        taps /= math.prod(layer.stride)  # each output pixel sees only this many
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * taps)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@register
class ImageVQVAE(ImageVQCodec):
    """Codec for images in [0, 1] of one fixed size; a quarter of the size in codes. See ImageVQCodec.

    Args:
        image_shape: (channels, height, width); height and width are multiples of 4.
        num_codes: size K of the codebook.
        width: channels of the convolutions.
        latent_dim: channels of the latents and of the codebook vectors.
        num_residual_blocks: in the encoder and in the decoder each.
        patch_encoder: each code sees its own 4×4 pixels and nothing else; the decoder still sees around it. Then few
            codes have to say what is near them, and a mixture's code depends on the sources' codes at its own position
            only, as the likelihood assumes. Without it, encoder and decoder mirror each other.
        codebook_decay: decay of the codebook's moving average per training batch.

    Source: LASS (arXiv:2301.08562), section "VQ-VAE"; layers as in van den Oord et al. 2017. There are no batch
    statistics in it, so that a code depends on its own signal only.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        num_codes: int = 256,
        width: int = 64,
        latent_dim: int = 64,
        num_residual_blocks: int = 2,
        patch_encoder: bool = False,
        codebook_decay: float = 0.99,
    ) -> None:
        super().__init__(image_shape, num_codes, DOWNSAMPLING)
        check_sizes(2**16, width=width, latent_dim=latent_dim)
        check_number("num_residual_blocks", num_residual_blocks, at_least=0, at_most=2**10, whole=True)
        check_number("codebook_decay", codebook_decay, at_least=0, below=1)
        self.config = {
            "image_shape": list(image_shape),
            "num_codes": num_codes,
            "width": width,
            "latent_dim": latent_dim,
            "num_residual_blocks": num_residual_blocks,
            "patch_encoder": patch_encoder,
            "codebook_decay": codebook_decay,
        }
        halving, block_kernel_size = ((2, 2), 1) if patch_encoder else ((4, 2, 1), 3)  # kernel size, stride, padding
        self.encoder = nn.Sequential(
            nn.Conv2d(image_shape[0], width // 2, *halving),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, *halving),
            *(ResidualBlock(width, block_kernel_size) for _ in range(num_residual_blocks)),
            nn.ReLU(),
            nn.Conv2d(width, latent_dim, 1),
        )
        self.quantizer = VectorQuantizer(num_codes, latent_dim, codebook_decay)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_dim, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(num_residual_blocks)),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width // 2, image_shape[0], 4, stride=2, padding=1),
            nn.Sigmoid(),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                initialise(layer)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs; about twice as fast on a CPU

    def encode_images(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """See ImageVQCodec."""
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def decode_latents(
        self, latents: Float[Tensor, "batch dim rows columns"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images of latents."""
        return self.decoder(latents.contiguous(memory_format=torch.channels_last))

    def forward(self, signal: Float[Tensor, "batch channels height width"]) -> VQVAEOutput:
        """Reconstruct, with straight-through gradients."""
        latents = self.encode_latents(signal)
        quantized, codes, commitment_loss = self.quantizer(latents)
        return VQVAEOutput(self.decode_latents(quantized), codes, commitment_loss, latents)
