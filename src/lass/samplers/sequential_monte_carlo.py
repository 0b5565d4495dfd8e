"""Sequential Monte Carlo: weighted candidates that approximate the posterior of whole sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import register
from lass.devices.numerics import running_sum
from lass.errors import check_number
from lass.samplers.drawing import check_settings, unchanged_parents
from lass.samplers.generators import MixtureGenerators
from lass.samplers.protocol import Choice, Posterior


@register
@dataclass(frozen=True)
class SequentialMonteCarlo:
    """Fully adapted particle filter over tuples of codes; the incremental weight is the normaliser Z_s of a position.

    Every pair is drawn from the normalised posterior of its position, as in ancestral sampling. For λ = 1 the
    normaliser Z_s is the probability of the mixture's code given the past. Ancestral sampling ignores it, and so does
    not favour the pasts that explain the mixture well; here the weight of a candidate is multiplied by it. Z_s does not
    depend on the pair that is drawn, so candidates are resampled before the draw, and copies of one candidate draw
    separate pairs.

    As the number of candidates grows, the weighted candidates converge to the posterior of whole sequences, which is
    proportional to p(z¹) p(z²) p(m | z¹, z²)^λ. The mean unnormalised weight is an unbiased estimate of the sum of this
    product over all z¹ and z²: the evidence (the probability of the mixture when λ = 1).

    Args:
        num_candidates: Number of candidates (particles) per mixture.
        resample_below: Resample when the effective sample size is below this fraction of `num_candidates`; 0 never
            resamples (sequential importance sampling), 1 does at almost every position.
        temperature: The proposal is the posterior of the position to the power 1 / temperature: below 1 sharpens it,
            above 1 flattens it. The weights correct for it, so that the candidates converge to the same posterior.

    With more than two sources, Z_s can be unknown (`Posterior.log_normalizer`). The weight is then multiplied by the
    importance weight of the drawn tuple (`Drawn.log_weights`), whose mean is Z_s; both statements above still hold.

    Source: Doucet and Johansen 2009 (sequential Monte Carlo); Pitt and Shephard 1999 (weights known before the draw,
    "fully adapted"); Kitagawa 1996 (systematic resampling). Its application to code sequences is our own.
    """

    num_candidates: int = 512
    resample_below: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)
        check_number("resample_below of SequentialMonteCarlo", self.resample_below, at_least=0, at_most=1)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See `Sampler`."""
        numbers = generator.uniform(1 + self.num_candidates * posterior.num_uniforms)
        uniforms = numbers[:, 1:].unflatten(1, (self.num_candidates, posterior.num_uniforms))
        log_normalizer = posterior.log_normalizer()
        parents = unchanged_parents(scores, self.num_candidates)
        log_weights = posterior.log_weights if log_normalizer is None else posterior.log_weights + log_normalizer
        log_weights = log_weights.gather(1, parents)
        resampled = effective_sample_size(log_weights) < self.resample_below * self.num_candidates
        if resampled.any() and posterior.num_candidates > 1:
            # After resampling every weight is the mean weight.
            mean = (log_weights.logsumexp(1) - math.log(self.num_candidates))[:, None].expand_as(log_weights)
            parents = torch.where(resampled[:, None], systematic_resampling(log_weights, numbers[:, 0]), parents)
            log_weights = torch.where(resampled[:, None], mean, log_weights)
        drawn = posterior.draw(parents, uniforms, self.temperature)
        if drawn.log_weights is not None or self.temperature != 1:  # otherwise the weights are right already
            change = drawn.log_weights
            if change is None:
                change = cast(Tensor, posterior.log_normalizer(self.temperature)).gather(1, parents)
            if log_normalizer is not None:
                change = change - log_normalizer.gather(1, parents)
            correction = drawn.log_posterior * (1 - 1 / self.temperature)
            log_weights = (log_weights + change + correction).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        scores = scores.gather(1, parents) + drawn.log_posterior
        return Choice(parents, drawn.codes, scores, log_weights)


def effective_sample_size(log_weights: Float[Tensor, "M N"]) -> Float[Tensor, " M"]:
    """Effective sample size (Σ w)² / Σ w² of each mixture; N if all weights are zero.

    Source: Kong, Liu and Wong 1994.
    """
    size = (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()
    return size.nan_to_num(log_weights.shape[1])


def systematic_resampling(log_weights: Float[Tensor, "M N"], uniforms: Float[Tensor, " M"]) -> Int[Tensor, "M N"]:
    """Systematic resampling: N indices in ascending order; index i occurs ⌊N wᵢ⌋ or ⌈N wᵢ⌉ times, N wᵢ on average.

    Args:
        log_weights: Unnormalised log weights; w is their softmax.
        uniforms: Uniform numbers in [0, 1), one per mixture.

    Source: Kitagawa 1996.
    """
    num = log_weights.shape[1]
    sums = running_sum(log_weights.to(uniforms.dtype).softmax(1))
    comb = (torch.arange(num, device=uniforms.device) + uniforms[:, None]) / num * sums[:, -1:]
    highest = sums[:, -1:].nextafter(sums.new_zeros(1))  # rounding must not reach the total
    return torch.searchsorted(sums, torch.minimum(comb, highest), right=True).clamp_(max=num - 1)
