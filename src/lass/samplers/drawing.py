"""Functions shared by the samplers: validation of settings and draws from discrete distributions."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.devices.numerics import exp_, running_sum
from lass.errors import check_number
from lass.samplers.protocol import Choice, Drawn

MAX_CANDIDATES = 2**20  # upper limit, so that a number in a file cannot exhaust the memory


def check_settings(num_candidates: int, temperature: float) -> None:
    """Raise LassError if the number of candidates or the temperature is out of range."""
    check_number("num_candidates", num_candidates, at_least=1, at_most=MAX_CANDIDATES, whole=True)
    check_number("temperature", temperature, above=0)


def invert_log_weights(
    log_weights: Float[Tensor, "*batch options"], uniforms: Float[Tensor, "*batch n"]
) -> Int[Tensor, "*batch n"]:
    """Draw indices with probability proportional to exp(log_weights).

    Args:
        log_weights: Unnormalised log probabilities; −inf for options of probability 0.
        uniforms: Uniform numbers in [0, 1), one per draw.

    Returns:
        Index of each draw; arbitrary if all options have probability 0.
    """
    highest = log_weights.amax(-1, keepdim=True).clamp(min=torch.finfo(log_weights.dtype).min)
    return _inverted(running_sum(exp_(log_weights - highest)), uniforms)[0]


def draw_one(
    log_weights: Float[Tensor, "n options"], uniforms: Float[Tensor, " n"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Draw one option per row with probability proportional to exp(log_weights), with one uniform number each.

    Returns:
        Index of each draw, and its log probability, log_weights less the log of the sum of their exponentials; NaN if
            all options have probability 0.
    """
    highest = log_weights.amax(1, keepdim=True).clamp_(min=torch.finfo(log_weights.dtype).min)
    sums = running_sum(exp_(log_weights - highest))
    chosen = _inverted(sums, uniforms[:, None])[0]
    log_probability = log_weights.gather(1, chosen).sub_(highest).sub_(sums[:, -1:].log())
    return chosen[:, 0], log_probability[:, 0]


def invert_running_sum(
    sums: Float[Tensor, "*batch options"], uniforms: Float[Tensor, "*batch n"]
) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """Draw indices with probability proportional to non-negative weights, by inverting their cumulative sum.

    Args:
        sums: Cumulative sums of the weights.
        uniforms: Uniform numbers in [0, 1), one per draw.

    Returns:
        Index of each draw, and a residual uniform number: the relative position of the target within the interval of
            the chosen option. The residual is uniform in [0, 1) and independent of the index. It has the precision of
            the uniform number less the bits that determined the index: enough for a second draw in float64; in float32
            the joint probability of both draws is off by up to 2⁻²³.
    """
    chosen, targets = _inverted(sums, uniforms)
    above = sums.gather(-1, chosen).to(uniforms.dtype)
    below = sums.gather(-1, (chosen - 1).clamp_(min=0)).to(uniforms.dtype).masked_fill_(chosen == 0, 0.0)
    return chosen, ((targets - below) / (above - below)).clamp_(0.0, 1 - torch.finfo(uniforms.dtype).eps / 2)


def _inverted(
    sums: Float[Tensor, "*batch options"], uniforms: Float[Tensor, "*batch n"]
) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """Index of the option in whose interval of the cumulative sum each target, uniform · total, lies; and the
    targets.
    """
    total = sums[..., -1:]
    targets = uniforms * total.to(uniforms.dtype)
    # Rounding must not reach the total, because no cumulative sum exceeds it.
    rounded = torch.minimum(targets.to(total.dtype), total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(sums, rounded.contiguous(), right=True).clamp_(max=sums.shape[-1] - 1), targets


def unchanged_parents(scores: Float[Tensor, "M C"], num_candidates: int) -> Int[Tensor, "M N"]:
    """Parents with which every candidate continues itself; at the first position all continue the only candidate."""
    num_mixtures, num_before = scores.shape
    parents = torch.arange(num_before, device=scores.device).repeat_interleave(num_candidates // num_before)
    return parents.expand(num_mixtures, -1)


def draw_among(
    tuples: Drawn, log_weights: Float[Tensor, "M C k"], scores: Float[Tensor, "M C"], uniforms: Float[Tensor, "M N"]
) -> Choice:
    """Extend every candidate by one of its k tuples, drawn with probability proportional to exp(log_weights)."""
    parents = unchanged_parents(scores, uniforms.shape[1])
    chosen = invert_log_weights(log_weights, uniforms.view(*scores.shape, -1))
    codes, log_posterior = gather_rows(tuples.codes, chosen), tuples.log_posterior.gather(-1, chosen)
    return Choice(parents, codes.flatten(1, 2), scores.gather(1, parents) + log_posterior.flatten(1))


def gather_rows(codes: Int[Tensor, "*batch k S"], chosen: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch n S"]:
    """Select tuples of codes by their index."""
    return codes.gather(-2, chosen[..., None].expand(*chosen.shape, codes.shape[-1]))
