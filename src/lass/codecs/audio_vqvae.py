"""VQ-VAE for audio: strided 1-D convolutions and residual blocks with growing dilation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import register
from lass.codecs.audio_codec import AudioVQCodec, DilatedBlock, margin_of
from lass.codecs.image_vqvae import VQVAEOutput, initialise
from lass.codecs.quantizer import VectorQuantizer
from lass.codecs.vq_codec import MAX_CODES
from lass.errors import LassError, check_number, check_sizes

MIN_WIDTH = 8  # minimum number of channels at high rates


@register
class AudioVQVAE(AudioVQCodec):
    """VQ-VAE for mono audio; see `AudioVQCodec`.

    Args:
        sample_rate: Sample rate of the signals in Hz; metadata only, it does not affect the network.
        num_codes: Codebook size K.
        strides: Strides of the convolutions; their product is the hop (128 by default).
        width: Channels of the convolutions at the rate of the codes; halved at each higher rate, at least 8.
        latent_dim: Channels of the latents and of the codebook vectors.
        num_residual_blocks: Number of residual blocks after each strided convolution of the encoder and before each of
            the decoder; their dilations are 1, 3, 9 …
        codebook_decay: Decay of the codebook's moving average per training batch.

    Raises:
        LassError: if a stride is odd, which would shift the signal by a fraction of a sample, or less than 2.

    Source: Dhariwal et al. 2020 (arXiv:2005.00341), section 3 and appendix B.1; strides and sizes are our own.
    """

    def __init__(
        self,
        sample_rate: int = 22050,
        num_codes: int = 2048,
        strides: Sequence[int] = (4, 4, 4, 2),
        width: int = 128,
        latent_dim: int = 64,
        num_residual_blocks: int = 2,
        codebook_decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.config = {
            "sample_rate": sample_rate,
            "num_codes": num_codes,
            "strides": list(strides),
            "width": width,
            "latent_dim": latent_dim,
            "num_residual_blocks": num_residual_blocks,
            "codebook_decay": codebook_decay,
        }
        check_sizes(2**20, sample_rate=sample_rate)
        check_sizes(MAX_CODES, num_codes=num_codes)
        check_sizes(2**16, width=width, latent_dim=latent_dim)
        check_number("num_residual_blocks", num_residual_blocks, at_least=0, at_most=16, whole=True)
        check_number("codebook_decay", codebook_decay, at_least=0, below=1)
        if not strides or any(stride < 2 or stride % 2 for stride in strides):
            raise LassError(f"strides must be even numbers from 2 on, at least one, not {list(strides)}.")
        self.sample_rate, self.num_codes, self.hop = sample_rate, num_codes, math.prod(strides)
        dilations = [3**i for i in range(num_residual_blocks)]
        self.margin = margin_of(strides, dilations)
        widths = [max(MIN_WIDTH, width >> halvings) for halvings in reversed(range(len(strides)))]
        encoder: list[nn.Module] = []
        for stride, before, here in zip(strides, [1, *widths], widths, strict=False):
            encoder += [nn.Conv1d(before, here, 2 * stride, stride, padding=stride // 2)]
            encoder += [DilatedBlock(here, dilation) for dilation in dilations]
        self.encoder = nn.Sequential(*encoder, nn.ReLU(), nn.Conv1d(widths[-1], latent_dim, 3, padding=1))
        self.quantizer = VectorQuantizer(num_codes, latent_dim, codebook_decay)
        decoder: list[nn.Module] = [nn.Conv1d(latent_dim, widths[-1], 3, padding=1)]
        for stride, before, here in reversed(list(zip(strides, [1, *widths], widths, strict=False))):
            decoder += [DilatedBlock(here, dilation) for dilation in reversed(dilations)]
            decoder += [nn.ReLU(), nn.ConvTranspose1d(here, before, 2 * stride, stride, padding=stride // 2)]
        self.decoder = nn.Sequential(*decoder)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                initialise(layer)

    def encode_padded(self, signal: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim positions"]:
        """See AudioVQCodec."""
        return self.encoder(signal)

    def decode_latents(self, latents: Float[Tensor, "batch dim positions"]) -> Float[Tensor, "batch 1 samples"]:
        """See AudioVQCodec."""
        return self.decoder(latents)

    def forward(self, signal: Float[Tensor, "batch channels samples"]) -> VQVAEOutput:
        """Reconstruct a signal, with straight-through gradients; the reconstruction has the length of the signal."""
        latents = self.encode_latents(signal)
        quantized, codes, commitment_loss = self.quantizer(latents)
        reconstruction = self.decode_latents(quantized)[..., : signal.shape[-1]]
        return VQVAEOutput(reconstruction, codes, commitment_loss, latents)
