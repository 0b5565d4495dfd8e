"""What the samplers that draw have in common."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.errors import LassError
from lass.samplers.protocol import Choice, Drawn


def check_settings(num_candidates: int, temperature: float = 1.0) -> None:
    """Raise LassError for a number of candidates or a temperature that makes no sense."""
    if num_candidates < 1:
        raise LassError(f"A sampler needs at least one candidate, got num_candidates={num_candidates}.")
    if temperature <= 0:
        raise LassError(f"temperature must be positive, got {temperature}; use the Greedy sampler for the limit 0.")


def own_continuations(drawn: Drawn, scores: Float[Tensor, "M C"]) -> Choice:
    """The choice in which every candidate is continued by each of the n pairs drawn for it."""
    num_mixtures, num_candidates, n = drawn.first.shape
    parents = torch.arange(num_candidates, device=scores.device).repeat_interleave(n).expand(num_mixtures, -1)
    new_scores = scores[..., None] + drawn.log_posterior
    return Choice(parents, drawn.first.flatten(1), drawn.second.flatten(1), new_scores.flatten(1))


def invert_cumulative(
    log_weights: Float[Tensor, "*batch options"], uniforms: Float[Tensor, "*batch n"]
) -> Int[Tensor, "*batch n"]:
    """Draw indices with probability proportional to exp(log_weights), by inverting the running sum.

    Args:
        log_weights: −inf for options that cannot be drawn.
        uniforms: in [0, 1), one per draw.

    Returns:
        An index per draw; some index where no option can be drawn.
    """
    highest = log_weights.amax(-1, keepdim=True)
    weights = (log_weights - highest.clamp(min=torch.finfo(log_weights.dtype).min)).exp()
    running_sum = weights.cumsum(-1)
    total = running_sum[..., -1:]
    # Rounding must not reach the total itself: no sum lies above it.
    targets = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))
    chosen = torch.searchsorted(running_sum, targets.contiguous(), right=True)
    return chosen.clamp_(max=log_weights.shape[-1] - 1)
