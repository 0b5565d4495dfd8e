"""OpenAI's Jukebox VQ-VAE as a codec; `lass.importers.jukebox` reads the published checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import register
from lass.codecs.audio_codec import AudioVQCodec, DilatedBlock, margin_of
from lass.codecs.quantizer import VectorQuantizer
from lass.codecs.vq_codec import MAX_CODES
from lass.errors import LassError, check_sizes

NATIVE_RATE = 44100  # sample rate of the published model, in Hz


@register
class JukeboxVQVAE(AudioVQCodec):
    """One level of Jukebox's VQ-VAE, for mono audio in [-1, 1] at its native rate or half of it.

    Signals at 22,050 Hz are resampled to 44,100 Hz by linear interpolation, and decoded signals back to 22,050 Hz. For
    inference only.

    Args:
        downs: Number of strided convolutions in each block of the encoder.
        strides: Stride of these convolutions in each block.
        width: Channels of the convolutions.
        depth: Number of residual blocks at each rate.
        latent_dim: Channels of the latents and of the codebook vectors.
        num_codes: Codebook size K.
        dilation_growth: Base of the dilations: residual block i has dilation dilation_growth^i.
        upsampling: Native sample rate divided by the sample rate of the signals.
        sample_rate: Sample rate of the signals in Hz.

    Source: Dhariwal et al. 2020 (arXiv:2005.00341), appendix B.1; linear resampling: LASS (arXiv:2301.08562), section
    "Music Source Separation".
    """

    def __init__(
        self,
        downs: Sequence[int] = (3, 2, 2),
        strides: Sequence[int] = (2, 2, 2),
        width: int = 32,
        depth: int = 4,
        latent_dim: int = 64,
        num_codes: int = 2048,
        dilation_growth: int = 3,
        upsampling: int = 2,
        sample_rate: int = NATIVE_RATE // 2,
    ) -> None:
        super().__init__()
        self.config = {
            "downs": list(downs),
            "strides": list(strides),
            "width": width,
            "depth": depth,
            "latent_dim": latent_dim,
            "num_codes": num_codes,
            "dilation_growth": dilation_growth,
            "upsampling": upsampling,
            "sample_rate": sample_rate,
        }
        check_sizes(2**20, sample_rate=sample_rate)
        check_sizes(MAX_CODES, num_codes=num_codes)
        check_sizes(2**16, width=width, latent_dim=latent_dim)
        check_sizes(16, depth=depth, upsampling=upsampling, dilation_growth=dilation_growth)
        for down, stride in zip(downs, strides, strict=True):
            check_sizes(16, down=down, stride=stride)
        self.num_codes, self.sample_rate, self.upsampling = num_codes, sample_rate, upsampling
        self.native_hop = math.prod(stride**down for down, stride in zip(downs, strides, strict=True))
        if self.native_hop % upsampling:
            raise LassError(f"The hop of {self.native_hop} samples is no multiple of upsampling = {upsampling}.")
        self.hop = self.native_hop // upsampling
        dilations = [dilation_growth**i for i in range(depth)]
        all_strides = [stride for down, stride in zip(downs, strides, strict=True) for _ in range(down)]
        self.margin = margin_of(all_strides, dilations) + 1  # + 1 for the resampling

        def residual(dilations: Sequence[int]) -> nn.Sequential:
            return nn.Sequential(*(DilatedBlock(width, dilation) for dilation in dilations))

        def block(channels: int, down: int, stride: int) -> nn.Sequential:
            sizes = [channels] + [width] * (down - 1)
            convolutions = [nn.Conv1d(size, width, 2 * stride, stride, stride // 2) for size in sizes]
            rates = [nn.Sequential(convolution, residual(dilations)) for convolution in convolutions]
            return nn.Sequential(*rates, nn.Conv1d(width, latent_dim, 3, padding=1))

        def mirrored(down: int, stride: int) -> nn.Sequential:
            sizes = [width] * (down - 1) + [latent_dim]
            convolutions = [nn.ConvTranspose1d(width, size, 2 * stride, stride, stride // 2) for size in sizes]
            rates = [nn.Sequential(residual(dilations[::-1]), convolution) for convolution in convolutions]
            return nn.Sequential(nn.Conv1d(latent_dim, width, 3, padding=1), *rates)

        halvings = list(zip(downs, strides, strict=True))
        self.encoder = nn.Sequential(*(block(latent_dim if i else 1, *each) for i, each in enumerate(halvings)))
        # In the order of the checkpoint, which follows the encoder; `decode_latents` applies the blocks in reverse.
        self.decoder = nn.ModuleList(mirrored(*each) for each in halvings)
        self.out = nn.Conv1d(latent_dim, 1, 3, padding=1)
        self.quantizer = VectorQuantizer(num_codes, latent_dim)

    def encode_padded(self, signal: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim positions"]:
        """See AudioVQCodec."""
        return self.encoder(F.interpolate(signal, scale_factor=self.upsampling, mode="linear"))

    def decode_latents(self, latents: Float[Tensor, "batch dim positions"]) -> Float[Tensor, "batch 1 samples"]:
        """See AudioVQCodec."""
        for block in reversed(self.decoder):
            latents = block(latents)
        # Linear interpolation at the centre of each group of `upsampling` samples: mean of the two central samples
        # (equal for odd `upsampling`).
        signal, first, second = self.out(latents), (self.upsampling - 1) // 2, self.upsampling // 2
        return (signal[..., first :: self.upsampling] + signal[..., second :: self.upsampling]) / 2
