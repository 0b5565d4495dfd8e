"""What all codecs for audio share: lengths, the codebook, and what they are refused for."""

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
    """x + f(x) with a dilated convolution of three taps and one of one tap."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation),
            nn.ReLU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, time) to the same."""
        return x + self.block(x)


class AudioVQCodec(VQCodec):
    """Base of codecs for mono audio in [-1, 1] of any length; one code for every `hop` samples.

    A signal whose length is no multiple of the hop is encoded as if silence followed; what codes decode to is a whole
    number of hops long, and the caller cuts it. Subclasses set the attributes below and define `encode_padded` and
    `decode_latents`.
    """

    signal_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    sample_rate: int  # of the signals, in Hz
    hop: int  # samples for one code
    margin: int  # code positions to each side that the code, or the sound, of one position can depend on

    def encode_latents(self, signal: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch dim positions"]:
        """Unquantised latents.

        Raises:
            LassError: if the signal has several channels, or not as many samples as a code stands for.
        """
        if signal.shape[1] != 1 or signal.shape[2] < self.hop:
            raise LassError(
                f"This codec is for mono signals of at least {self.hop} samples, but got {signal.shape[1]} channels of "
                f"{signal.shape[2]} samples."
            )
        return self.encode_padded(F.pad(signal, (0, -signal.shape[2] % self.hop)))

    def encode_padded(self, signal: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim positions"]:
        """Unquantised latents of a signal that is a whole number of hops long."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_padded()")


def margin_of(strides: Sequence[int], dilations: Sequence[int]) -> int:
    """`AudioVQCodec.margin` of strided convolutions with residual blocks between them.

    Args:
        strides: of the convolutions, from the signal on.
        dilations: of the residual blocks after each.
    """
    hops = [math.prod(strides[: i + 1]) for i in range(len(strides))]
    samples = sum(hop * (1 + sum(dilations)) for hop in hops) + hops[-1]
    return -(-samples // hops[-1]) + 1
