"""Mixing of sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lass.errors import LassError


def mix(sources: Tensor, weights: Sequence[float] | None = None, dim: int = 1) -> Tensor:
    """Mix sources into their weighted sum, by default their mean: y = (x¹ + x²) / 2 for two sources.

    Args:
        sources: Tensor whose axis `dim` indexes the sources, e.g. (batch, sources, channels, height, width).
        weights: One weight per source; default 1 / num_sources each.
        dim: Axis of the sources.

    Returns:
        The mixture, shaped like `sources` without axis `dim`.

    Raises:
        LassError: if the number of weights differs from the number of sources.

    Example:
        >>> mix(torch.tensor([[1.0, 3.0]]))
        tensor([2.])

    Source: LASS (arXiv:2301.08562), section "Method".
    """
    num_sources = sources.shape[dim]
    if weights is None:
        return sources.mean(dim)
    if len(weights) != num_sources:
        raise LassError(f"expected one weight for each of {num_sources} sources, got {len(weights)}")
    weighted = [weight * source for weight, source in zip(weights, sources.unbind(dim), strict=True)]
    return torch.stack(weighted).sum(0)
