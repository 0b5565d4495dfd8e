"""Base class and building blocks of audio codecs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lass.codecs.vq_codec import VQCodec
from lass.errors import LassError


class DilatedBlock(nn.Module):
    """Residual block x + f(x), where f is a dilated convolution with kernel size 3 and one with kernel size 1."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation),
            nn.ReLU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, time) to the same shape."""
        return x + self.block(x)


class AudioVQCodec(VQCodec):
    """Base class of codecs for mono audio in [-1, 1] of any length, with one code per `hop` samples.

    Signals are zero-padded to a multiple of the hop. Decoded signals are a whole number of hops long; the caller crops
    them. Subclasses set the attributes below and define `encode_padded` and `decode_latents`.
    """

    signal_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    sample_rate: int  # sample rate of the signals, in Hz
    hop: int  # samples per code
    margin: int  # receptive field of encoder, and of decoder, to each side, in code positions

    def encode_latents(self, signal: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch dim positions"]:
        """Encode a signal into unquantised latents.

        Raises:
            LassError: if the signal has several channels or fewer than `hop` samples.
        """
        if signal.shape[1] != 1 or signal.shape[2] < self.hop:
            raise LassError(
                f"This codec is for mono signals of at least {self.hop} samples, but got {signal.shape[1]} channels of "
                f"{signal.shape[2]} samples."
            )
        return self.encode_padded(F.pad(signal, (0, -signal.shape[2] % self.hop)))

    def encode_padded(self, signal: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim positions"]:
        """Encode a signal whose length is a multiple of the hop into unquantised latents."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_padded()")


def margin_of(strides: Sequence[int], dilations: Sequence[int]) -> int:
    """`AudioVQCodec.margin` of strided convolutions with residual blocks between them.

    Args:
        strides: Strides of the convolutions, in the order of the encoder.
        dilations: Dilations of the residual blocks after each convolution.
    """
    hops = [math.prod(strides[: i + 1]) for i in range(len(strides))]
    samples = sum(hop * (1 + sum(dilations)) for hop in hops) + hops[-1]
    return -(-samples // hops[-1]) + 1
