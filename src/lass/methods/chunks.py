"""Separation of signals that are longer than the chunks that a method takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def overlap_add(
    separate: Callable[[Tensor], Tensor], signal: Float[Tensor, "batch 1 samples"], length: int
) -> Float[Tensor, "batch sources 1 samples"]:
    """Separate a signal in chunks that overlap by half, and cross-fade the estimates linearly.

    Args:
        separate: Function that maps (batch, 1, length) to (batch, sources, 1, length).
        signal: Signal of any length. One that is not longer than `length` is separated as one chunk.
        length: Length of a chunk. The last chunk is padded with zeros.

    Returns:
        Estimates of the length of the signal.
    """
    total = signal.shape[-1]
    if total <= length:
        return separate(signal)
    hop = max(1, length // 2)
    num_chunks = math.ceil((total - length) / hop) + 1
    padded = F.pad(signal, (0, (num_chunks - 1) * hop + length - total))
    rising = torch.arange(1.0, length + 1, device=signal.device)
    window = torch.minimum(rising, rising.flip(0))
    sums, norms = torch.zeros((), device=signal.device), padded.new_zeros(padded.shape[-1])
    for start in range(0, num_chunks * hop, hop):
        weighted = window * separate(padded[..., start : start + length])
        if not sums.ndim:
            sums = weighted.new_zeros(*weighted.shape[:-1], padded.shape[-1])
        sums[..., start : start + length] += weighted
        norms[start : start + length] += window
    return (sums / norms)[..., :total]
