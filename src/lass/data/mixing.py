"""The one place where sources become a mixture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lass.errors import LassError


def mix(sources: Tensor, weights: Sequence[float] | None = None, dim: int = 1) -> Tensor:
    """Weighted sum of sources, their mean unless told otherwise: y = (x¹ + x²) / 2.

    Args:
        sources: the sources along `dim`, e.g. (batch, sources, channels, height, width).
        weights: one per source; default 1 / num_sources each.
        dim: the axis of the sources.

    Returns:
        The mixture: the shape of `sources` without `dim`.

    Raises:
        LassError: if there is not one weight per source.

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
