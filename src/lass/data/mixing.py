"""Mixing of sources."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lass.errors import LassError, check_number


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


def partial_weights(weights: Sequence[float] | None, num_sources: int) -> list[float] | None:
    """Weights of a mixture of the first sources only: their weights, rescaled to the sum of all weights.

    Args:
        weights: One weight per source, or None for the mean.
        num_sources: Number of sources in the partial mixture.

    Returns:
        `num_sources` weights, or None for the mean.

    Raises:
        LassError: if there are fewer weights than `num_sources`.

    Example:
        >>> partial_weights([0.25, 0.25, 0.5], 2)
        [0.5, 0.5]
    """
    if weights is None:
        return None
    if len(weights) < num_sources:
        raise LassError(f"expected a weight for each of {num_sources} sources, got {len(weights)}")
    scale = math.fsum(weights) / math.fsum(weights[:num_sources])
    return [scale * weight for weight in weights[:num_sources]]


def mix_neighbours(signals: Tensor, num_sources: int = 2, weights: Sequence[float] | None = None) -> Tensor:
    """Mix each signal of a shuffled batch with the `num_sources` - 1 signals before it, cyclically.

    Args:
        signals: Signals or latents, (batch, channels, *space).
        num_sources: Number of sources per mixture.
        weights: Weights of `num_sources` or more sources, see `partial_weights`; None for the mean.

    Returns:
        One mixture per signal, shaped like `signals`.
    """
    partners = [signals.roll(shift, dims=0) for shift in range(1, num_sources)]
    return mix(torch.stack([signals, *partners], 1), partial_weights(weights, num_sources))


def check_weights(weights: Sequence[float], num_sources: int) -> None:
    """Raise LassError unless `weights` are one positive number per source with a sum of at most 1."""
    if len(weights) != num_sources:
        raise LassError(f"weights must be {num_sources} numbers, one for each source of a mixture, not {len(weights)}.")
    for weight in weights:
        check_number("each of weights", weight, above=0)
    if (total := math.fsum(weights)) > 1 + 1e-6:
        raise LassError(
            f"weights must have a sum of at most 1, so that mixtures stay in the range of the signals, not {total:g}: "
            "divide them by their sum."
        )
