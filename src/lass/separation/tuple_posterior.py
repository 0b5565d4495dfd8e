"""Posterior over tuples of source codes at one position, for any number of sources, with an additive likelihood."""

# M mixtures, C candidates before the step, N after it, S sources, K num_codes, d channels of the latents

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lass.likelihood import AdditiveLikelihood
from lass.samplers.drawing import gather_rows, invert_log_weights
from lass.samplers.protocol import Drawn
from lass.separation.batched_priors import LogPrior
from lass.separation.searched_posterior import SearchedPosterior

INFLATION = 4.0  # factor of the variance in the look-ahead, whose Gaussian is narrower than the sum of discrete vectors
REFINED = 32  # best codes of the last two sources whose combinations refine the Gaussian look-ahead
SWEEPS = 2  # Gibbs sweeps over the sources after the draw
BEAMS = 64  # least number of partial tuples that are kept in the search for the most probable tuples
BYTES_PER_CODE = 64  # per candidate and code: log prior, distances, look-ahead, their sum, cumulative sum, others


class TuplePosterior(SearchedPosterior):
    """Posterior of Algorithm 1, prior × likelihood^λ, at one position for M mixtures × C candidates and S sources.

    Implements `lass.samplers.Posterior`. The tuples number K^S, so they are not enumerated. A tuple is drawn source by
    source at a cost of S · K · d. With the sum of the vectors of the sources drawn so far, source s is drawn in
    proportion to its prior times a look-ahead: the likelihood, averaged over a Gaussian with the mean and variance that
    the priors give for the sum of the later sources. For the last source but one, the look-ahead of the best codes is
    refined by the combinations of the best codes of both sources. The last source is drawn from its exact conditional
    posterior. Gibbs sweeps over the sources follow, which leave the posterior invariant.

    `draw` is therefore exact only in the limit of many sweeps. But each draw comes with its log importance weight, the
    posterior over the probability of the draw (before the sweeps), so that `SequentialMonteCarlo` converges to the
    posterior of whole sequences, and its evidence is unbiased. `best` keeps the best partial tuples, source by source,
    and is exact if there are no more than max(k, 64) of them. `nucleus` is limited to the 256 best tuples.

    Args:
        log_priors: log p(next code | past) of each source.
        likelihood: Likelihood of the latents.
        latents: Unquantised latents of the mixtures at this position.
        mixing_weights: Weight of each source in the mixture.
        likelihood_weight: Exponent of the likelihood, λ in the paper.
        log_weights: Log importance weights of the candidates from the sampler; None for equal weights.
        memory_budget: Upper bound of the temporaries in bytes.

    Source: our own; LASS (arXiv:2301.08562), Algorithm 1, for more than two sources.
    """

    def __init__(
        self,
        log_priors: Sequence[LogPrior],
        likelihood: AdditiveLikelihood,
        latents: Float[Tensor, "M dim"] | None,
        mixing_weights: Sequence[float],
        likelihood_weight: float,
        log_weights: Float[Tensor, "M C"] | None = None,
        memory_budget: int = 2**30,
    ) -> None:
        super().__init__(log_priors, log_weights)
        self.num_uniforms = len(log_priors) * (1 + SWEEPS)
        self._sources = _sources(log_priors, likelihood, mixing_weights)
        self._likelihood, self._likelihood_weight = likelihood, likelihood_weight
        self._memory_budget = memory_budget
        # Candidates of all mixtures, one after the other: row of the log priors, and whitened latents.
        self._rows = torch.stack([row_of.flatten() for _, row_of in log_priors], 1)  # (M·C, S)
        self._latents = likelihood.whiten(latents).repeat_interleave(self.num_candidates, 0)  # (M·C, d)

    def draw(
        self,
        parents: Int[Tensor, "M N"],
        uniforms: Float[Tensor, "M N U"],
        temperature: float = 1.0,
        at_least: Float[Tensor, "M C"] | None = None,
    ) -> Drawn:
        """See `Posterior`."""
        if at_least is not None:
            return self.draw_among_best(parents, uniforms[..., 0], temperature, at_least)
        first_of_mixture = torch.arange(self.num_mixtures, device=parents.device)[:, None] * self.num_candidates
        candidates, numbers = (parents + first_of_mixture).flatten(), uniforms.flatten(0, 1)
        num_codes, dim = self._likelihood.vectors.shape
        refined = min(REFINED, num_codes)
        size = max(1, self._memory_budget // (BYTES_PER_CODE * (num_codes + refined**2) + 16 * refined * dim))
        chunks = zip(candidates.split(size), numbers.split(size), strict=True)
        drawn = [
            self._draw(self._rows[own], self._latents[own], own_numbers, temperature) for own, own_numbers in chunks
        ]
        return Drawn(*(torch.cat(field).unflatten(0, parents.shape) for field in zip(*drawn, strict=True)))

    def best(self, k: int, canonical: bool = False) -> Drawn:
        """See `Posterior`; the search keeps max(k, 64) partial tuples."""
        num_beams, shape = max(k, BEAMS), (self.num_mixtures, self.num_candidates)
        size = max(1, self._memory_budget // (BYTES_PER_CODE * num_beams * self._likelihood.num_codes))
        chunks = zip(self._rows.split(size), self._latents.split(size), strict=True)
        found = [self._search(rows, latents, k, num_beams, canonical) for rows, latents in chunks]
        return Drawn(*(torch.cat(field).unflatten(0, shape) for field in zip(*found, strict=True)))

    def log_normalizer(self, temperature: float = 1.0) -> None:
        """None: the sum over all tuples is not computed; see `Drawn.log_weights`."""

    def _draw(
        self,
        rows: Int[Tensor, "n S"],
        latents: Float[Tensor, "n dim"],
        uniforms: Float[Tensor, "n U"],
        temperature: float,
    ) -> Drawn:
        """Draw one tuple per row; its `log_weights` are those of the tempered posterior."""
        num_sources, numbers = len(self._sources), iter(uniforms.unbind(1))
        residual, variance = latents, torch.full_like(latents[:, 0], self._likelihood.noise)
        log_proposal, codes = torch.zeros_like(variance), []
        for s, source in enumerate(self._sources):
            log_weights = self._log_weights(s, range(s + 1, num_sources), rows, residual, variance)
            if s == num_sources - 2:
                log_weights = self._refined(log_weights, rows, residual, variance)
            if temperature != 1:
                log_weights = log_weights / temperature
            chosen, log_probability = _drawn(log_weights, next(numbers))
            log_proposal += log_probability
            codes.append(chosen)
            residual, variance = residual - source.vectors[chosen], variance + source.variances[chosen]
        drawn = torch.stack(codes, 1)
        log_weights = self._log_posterior(rows, latents, drawn) / temperature - log_proposal
        drawn = self._swept(drawn, rows, latents, numbers, temperature)
        return Drawn(drawn, self._log_posterior(rows, latents, drawn), log_weights)

    def _log_weights(
        self, s: int, later: Sequence[int], rows: Tensor, residual: Tensor, variance: Tensor
    ) -> Float[Tensor, "n K"]:
        """Log prior of source s times the look-ahead, the likelihood averaged over the later sources.

        Args:
            s: Source.
            later: Sources that are drawn after it.
            rows: (n, S), rows of the log priors.
            residual: (n, d), latents minus the vectors of the sources drawn before it.
            variance: (n,), noise and variance of the sources drawn before it.
        """
        source = self._sources[s]
        log_prior = source.log_prior[rows[:, s]]
        if not later:
            return log_prior + self._log_likelihood(_squared(residual, source), variance[:, None] + source.variances)
        mean = sum(self._sources[t].mean[rows[:, t]] for t in later)
        spread = sum(self._sources[t].spread[rows[:, t]] for t in later)
        noise = INFLATION * (variance + sum(self._sources[t].noise[rows[:, t]] for t in later))[:, None]
        precision = 1 / (noise + spread)
        distance = ((residual - mean).square() * precision).sum(1, keepdim=True)
        distance = distance - 2 * ((residual - mean) * precision) @ source.vectors.T
        distance = distance + precision @ source.vectors.square().T
        return log_prior - self._likelihood_weight / 2 * distance.clamp(min=0)

    def _refined(
        self, log_weights: Float[Tensor, "n K"], rows: Tensor, residual: Tensor, variance: Tensor
    ) -> Float[Tensor, "n K"]:
        """Refine the look-ahead of the last source but one by the best combinations of its codes and those of the last.

        The total weight of these codes stays that of the Gaussian look-ahead, because the sum misses other codes of the
        last source. Half of it is distributed as before, so that no code of the posterior becomes improbable.
        """
        last_but_one, last = len(self._sources) - 2, len(self._sources) - 1
        source, other = self._sources[last_but_one], self._sources[last]
        num_refined = min(REFINED, log_weights.shape[1])
        coarse, own = log_weights.topk(num_refined, dim=1, sorted=False)
        of_last = self._log_weights(last, [last_but_one], rows, residual, variance)
        others = of_last.topk(num_refined, dim=1, sorted=False).indices
        left = residual[:, None] - source.vectors[own]  # (n, refined, d)
        squared = left.square().sum(2)[:, :, None] + other.squared_norms[others][:, None]
        squared = torch.baddbmm(squared, left, other.vectors[others].transpose(1, 2), alpha=-2)
        both = variance[:, None, None] + source.variances[own][:, :, None] + other.variances[others][:, None]
        log_prior = other.log_prior[rows[:, last]].gather(1, others)
        log_sum = (self._log_likelihood(squared, both) + log_prior[:, None]).logsumexp(2)
        log_sum = log_sum + source.log_prior[rows[:, last_but_one]].gather(1, own)
        if num_refined == log_weights.shape[1]:  # the sums miss nothing
            return log_weights.scatter(1, own, log_sum)
        rescaled = log_sum - log_sum.logsumexp(1, keepdim=True) + coarse.logsumexp(1, keepdim=True)
        return log_weights.scatter(1, own, torch.logaddexp(coarse, rescaled.nan_to_num(-torch.inf)) - math.log(2))

    def _swept(
        self, codes: Int[Tensor, "n S"], rows: Tensor, latents: Tensor, numbers: Iterator[Tensor], temperature: float
    ) -> Int[Tensor, "n S"]:
        """Gibbs sweeps: every source is drawn anew, given the others; leaves the tempered posterior invariant."""
        codes, noise = codes.clone(), self._likelihood.noise
        residual, variance = self._residual(latents, codes)
        for _ in range(SWEEPS):
            for s, source in enumerate(self._sources):
                residual = residual + source.vectors[codes[:, s]]
                variance = (variance - source.variances[codes[:, s]]).clamp(min=noise)  # rounding
                log_weights = source.log_prior[rows[:, s]] + self._log_likelihood(
                    _squared(residual, source), variance[:, None] + source.variances
                )
                codes[:, s] = _drawn(log_weights / temperature, next(numbers))[0]
                residual, variance = residual - source.vectors[codes[:, s]], variance + source.variances[codes[:, s]]
        return codes

    def _residual(
        self, latents: Float[Tensor, "n dim"], codes: Int[Tensor, "n chosen"]
    ) -> tuple[Float[Tensor, "n dim"], Float[Tensor, " n"]]:
        """Latents minus the vectors of the first sources, whose codes are chosen; noise plus their variances."""
        residual, variance = latents, torch.full_like(latents[:, 0], self._likelihood.noise)
        for source, chosen in zip(self._sources, codes.unbind(1), strict=False):
            residual, variance = residual - source.vectors[chosen], variance + source.variances[chosen]
        return residual, variance

    def _log_posterior(
        self, rows: Int[Tensor, "n S"], latents: Float[Tensor, "n dim"], codes: Int[Tensor, "n S"]
    ) -> Float[Tensor, " n"]:
        """Unnormalised log posterior of tuples."""
        residual, variance = self._residual(latents, codes)
        log_priors = [source.log_prior[rows[:, s], codes[:, s]] for s, source in enumerate(self._sources)]
        return torch.stack(log_priors).sum(0) + self._log_likelihood(residual.square().sum(1), variance)

    def _log_likelihood(self, squared: Tensor, variance: Tensor) -> Tensor:
        return self._likelihood_weight * self._likelihood.of_residual(squared.clamp(min=0), variance)

    def _search(
        self, rows: Int[Tensor, "n S"], latents: Float[Tensor, "n dim"], k: int, num_beams: int, canonical: bool
    ) -> tuple[Int[Tensor, "n k S"], Float[Tensor, "n k"]]:
        """Beam search over the sources: the best tuples and their log posterior, best first, filled up with −inf."""
        num, num_codes, num_sources = len(rows), self._likelihood.num_codes, len(self._sources)
        codes, log_prior, kept = rows.new_zeros(num, 1, 0), latents.new_zeros(num, 1), latents.new_zeros(num, 1)
        for s, source in enumerate(self._sources):
            partial, num_partial = codes.flatten(0, 1), codes.shape[1]
            own_rows = rows.repeat_interleave(num_partial, 0)
            residual, variance = self._residual(latents.repeat_interleave(num_partial, 0), partial)
            later = range(s + 1, num_sources)
            scores = self._log_weights(s, later, own_rows, residual, variance) + log_prior.view(-1, 1)
            scores = scores.masked_fill((kept == -torch.inf).view(-1, 1), -torch.inf)
            if canonical:
                scores = scores.masked_fill(self._descending(s, own_rows, partial), -torch.inf)
            num_kept = min(k if s == num_sources - 1 else num_beams, num_partial * num_codes)
            kept, chosen = scores.view(num, -1).topk(num_kept, dim=1)
            parents, code = chosen // num_codes, chosen % num_codes
            codes = torch.cat([gather_rows(codes, parents), code[..., None]], -1)
            log_prior = log_prior.gather(1, parents) + source.log_prior[rows[:, s]].gather(1, code)
        missing = k - kept.shape[1]
        filled = torch.nn.functional.pad(kept, (0, missing), value=-torch.inf)
        return torch.nn.functional.pad(codes, (0, 0, 0, missing)), filled

    def _descending(self, s: int, rows: Int[Tensor, "n S"], codes: Int[Tensor, "n chosen"]) -> Bool[Tensor, "n K"]:
        """Codes of source s that are smaller than that of an earlier, exchangeable source with an equal past."""
        options = torch.arange(self._likelihood.num_codes, device=rows.device)
        descending = torch.zeros(len(rows), len(options), dtype=torch.bool, device=rows.device)
        for t in range(s):
            if self._sources[t] is self._sources[s]:  # equal rows are then equal pasts and classes
                descending |= (rows[:, t] == rows[:, s])[:, None] & (options < codes[:, t, None])
        return descending


class _Source(NamedTuple):
    """One source at this position, for all its distinct pasts."""

    log_prior: Tensor  # (rows, K)
    mean: Tensor  # (rows, d) of the weighted whitened vector under the prior
    spread: Tensor  # (rows, d), its variance
    noise: Tensor  # (rows,), mean of the weighted variance of the code
    vectors: Tensor  # (K, d), w u
    squared_norms: Tensor  # (K,), |w u|²
    variances: Tensor  # (K,), w² c


def _sources(
    log_priors: Sequence[LogPrior], likelihood: AdditiveLikelihood, mixing_weights: Sequence[float]
) -> list[_Source]:
    """Moments of every source under its prior; sources with the same rows and weight share them."""
    known: dict[tuple[int, float], _Source] = {}
    for (rows, _), weight in zip(log_priors, mixing_weights, strict=True):
        if (id(rows), weight) not in known:
            prior, vectors = rows.exp(), weight * likelihood.vectors
            mean, variances = prior @ vectors, weight**2 * likelihood.variances
            spread = (prior @ vectors.square() - mean.square()).clamp(min=0)
            squared_norms = weight**2 * likelihood.squared_norms
            known[id(rows), weight] = _Source(rows, mean, spread, prior @ variances, vectors, squared_norms, variances)
    return [known[id(rows), weight] for (rows, _), weight in zip(log_priors, mixing_weights, strict=True)]


def _squared(residual: Float[Tensor, "n dim"], source: _Source) -> Float[Tensor, "n K"]:
    """|residual − w u[k]|² of every code."""
    norms = residual.square().sum(1, keepdim=True) + source.squared_norms
    return torch.addmm(norms, residual, source.vectors.T, alpha=-2)


def _drawn(log_weights: Float[Tensor, "n options"], uniforms: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Draw one option per row; return its index and its log probability."""
    chosen = invert_log_weights(log_weights, uniforms[:, None])
    log_probability = log_weights.gather(1, chosen) - log_weights.logsumexp(1, keepdim=True)
    return chosen[:, 0], log_probability[:, 0]
