"""VQ-VAE for images: two stride-2 convolutions each in encoder and decoder, residual blocks, sigmoid output."""

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
    """Output of a forward pass, as needed by the training loss."""

    reconstruction: Tensor  # shaped like the signal
    codes: Tensor  # (batch, *grid) long; for images (batch, height / 4, width / 4)
    commitment_loss: Tensor  # scalar
    latents: Tensor  # (batch, latent_dim, *grid), unquantised


class ResidualBlock(nn.Module):
    """Residual block x + f(x), where f is a kernel_size × kernel_size and a 1×1 convolution."""

    def __init__(self, width: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        return x + self.block(x)


def initialise(layer: Convolution) -> None:
    """Initialise a convolution in place: normal weights with variance 2 / fan-in, zero bias.

    Torch's default initialisation shrinks the latents until all are quantised to one code.

    Source: He et al. 2015 (arXiv:1502.01852), Eq. 10.
    """
    taps: int | float = math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        taps /= math.prod(layer.stride)  # taps that contribute to one output position
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.in_channels * taps)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@register
class ImageVQVAE(ImageVQCodec):
    """VQ-VAE for images in [0, 1] of one fixed size, with one code per 4×4 pixels; see `ImageVQCodec`.

    The network has no batch normalisation, so the codes of a signal do not depend on the rest of the batch.

    Args:
        image_shape: Shape of the images, (channels, height, width); height and width are multiples of 4.
        num_codes: Codebook size K.
        width: Channels of the convolutions.
        latent_dim: Channels of the latents and of the codebook vectors.
        num_residual_blocks: Number of residual blocks in the encoder, and in the decoder.
        patch_encoder: Restrict the encoder's receptive field to the 4×4 pixels of each code. Then codes need not
            encode their surroundings, and a mixture code depends only on the source codes at its position, as the
            likelihood assumes. The decoder is unchanged. If false, encoder and decoder mirror each other.
        codebook_decay: Decay of the codebook's moving average per training batch.

    Source: LASS (arXiv:2301.08562), section "VQ-VAE"; layers as in van den Oord et al. 2017.
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
        """Decode latents into images."""
        return self.decoder(latents.contiguous(memory_format=torch.channels_last))

    def forward(self, signal: Float[Tensor, "batch channels height width"]) -> VQVAEOutput:
        """Reconstruct images, with straight-through gradients."""
        latents = self.encode_latents(signal)
        quantized, codes, commitment_loss = self.quantizer(latents)
        return VQVAEOutput(self.decode_latents(quantized), codes, commitment_loss, latents)
