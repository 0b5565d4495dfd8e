"""Posterior over tuples of source codes at one position, for any number of sources, with an additive likelihood."""

# M mixtures, C candidates before the step, N after it, S sources, K num_codes, d channels of the latents

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from lass.likelihood import AdditiveLikelihood
from lass.samplers.drawing import draw_one, gather_rows
from lass.samplers.protocol import Drawn
from lass.separation.batched_priors import LogPrior
from lass.separation.searched_posterior import SearchedPosterior
from lass.separation.source_moments import CandidateMoments, source_moments, squared_distances

INFLATION = 4.0  # factor of the variance in the look-ahead, whose Gaussian is narrower than the sum of discrete vectors
REFINED = 32  # best codes of the last two sources whose combinations refine the Gaussian look-ahead
SWEEPS = 2  # Gibbs sweeps over the sources after the draw
BEAMS = 64  # least number of partial tuples that are kept in the search for the most probable tuples
BYTES_PER_CODE = 64  # per candidate and code: log prior, distances, look-ahead, their sum, cumulative sum, others
LARGEST_ON_CPU = 2**22  # largest temporary of a draw in bytes on a CPU: beyond it, allocation and cache misses dominate


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
        self._sources = source_moments(log_priors, likelihood, mixing_weights, memory_budget)
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
        num_bytes = (BYTES_PER_CODE + 4 * len(self._sources)) * num_codes + BYTES_PER_CODE * refined**2
        size = self._memory_budget // (num_bytes + 16 * refined * dim)
        if candidates.device.type == "cpu":
            size = min(size, LARGEST_ON_CPU // (4 * max(num_codes, refined**2)))
        size = max(1, size)
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
        own = CandidateMoments(self._sources, rows)
        residual, variance = latents, torch.full_like(latents[:, 0], self._likelihood.noise)
        log_proposal, codes = torch.zeros_like(variance), []
        for s, source in enumerate(self._sources):
            log_weights = self._log_weights(s, range(s + 1, num_sources), own, residual, variance)
            if s == num_sources - 2:
                log_weights = self._refined(log_weights, own, residual, variance)
            if temperature != 1:
                log_weights /= temperature
            chosen, log_probability = draw_one(log_weights, next(numbers))
            log_proposal += log_probability
            codes.append(chosen)
            residual, variance = residual - source.vectors[chosen], variance + source.variances[chosen]
        drawn = torch.stack(codes, 1)
        log_weights = self._log_posterior(rows, latents, drawn) / temperature - log_proposal
        drawn = self._swept(drawn, own, latents, numbers, temperature)
        return Drawn(drawn, self._log_posterior(rows, latents, drawn), log_weights)

    def _log_weights(
        self, s: int, later: Sequence[int], own: CandidateMoments, residual: Tensor, variance: Tensor
    ) -> Float[Tensor, "n K"]:
        """Log prior of source s times the look-ahead, the likelihood averaged over the later sources.

        Args:
            s: Source.
            later: Sources that are drawn after it.
            own: The n candidates.
            residual: (n, d), latents minus the vectors of the sources drawn before it.
            variance: (n,), noise and variance of the sources drawn before it.
        """
        source = self._sources[s]
        if not later:
            return self._log_conditional(s, own, residual, variance)
        dim, expected = residual.shape[1], torch.stack([own.expected(t) for t in later]).sum(0)
        mean, spread, noise = expected.split([dim, dim, 1], 1)
        precision, left = 1 / (INFLATION * (variance[:, None] + noise) + spread), residual - mean
        weighted = left * precision
        # Σ precision · (left − vector)² over the channels, for every code
        factors = torch.cat([-2 * weighted, precision, (left * weighted).sum(1, keepdim=True)], 1)
        distance = (factors @ source.moments.T).clamp_(min=0)
        return distance.mul_(-self._likelihood_weight / 2).add_(own.log_prior(s))

    def _log_conditional(
        self, s: int, own: CandidateMoments, residual: Tensor, variance: Tensor
    ) -> Float[Tensor, "n K"]:
        """Log posterior of source s, up to a constant, if it is the only source that is not drawn."""
        source = self._sources[s]
        log_likelihood = self._log_likelihood(squared_distances(residual, source), variance[:, None] + source.variances)
        return log_likelihood.add_(own.log_prior(s))

    def _refined(
        self, log_weights: Float[Tensor, "n K"], own: CandidateMoments, residual: Tensor, variance: Tensor
    ) -> Float[Tensor, "n K"]:
        """Refine the look-ahead of the last source but one by the best combinations of its codes and those of the last.

        The total weight of these codes stays that of the Gaussian look-ahead, because the sum misses other codes of the
        last source. Half of it is distributed as before, so that no code of the posterior becomes improbable.
        """
        last_but_one, last = len(self._sources) - 2, len(self._sources) - 1
        source, other = self._sources[last_but_one], self._sources[last]
        num_refined = min(REFINED, log_weights.shape[1])
        coarse, codes = log_weights.topk(num_refined, dim=1, sorted=False)
        of_last = self._log_weights(last, [last_but_one], own, residual, variance)
        others = of_last.topk(num_refined, dim=1, sorted=False).indices
        # |r − a − b|² = |r − a|² + |r − b|² − |r|² + 2 a · b
        nearness = squared_distances(residual, other).gather(1, others) - residual.square().sum(1, keepdim=True)
        squared = squared_distances(residual, source).gather(1, codes)[:, :, None] + nearness[:, None]
        vectors, of_others = embedding(codes, source.vectors), embedding(others, other.vectors)
        squared = squared.baddbmm_(vectors, of_others.transpose(1, 2), alpha=2)  # (n, refined, refined)
        both = (variance[:, None] + source.variances[codes])[:, :, None] + other.variances[others][:, None]
        log_prior = own.log_prior(last).gather(1, others)
        log_sum = self._log_likelihood(squared, both).add_(log_prior[:, None]).logsumexp(2)
        log_sum += own.log_prior(last_but_one).gather(1, codes)
        if num_refined == log_weights.shape[1]:  # the sums miss nothing
            return log_weights.scatter_(1, codes, log_sum)
        rescaled = log_sum - log_sum.logsumexp(1, keepdim=True) + coarse.logsumexp(1, keepdim=True)
        return log_weights.scatter_(1, codes, torch.logaddexp(coarse, rescaled.nan_to_num(-torch.inf)) - math.log(2))

    def _swept(
        self,
        codes: Int[Tensor, "n S"],
        own: CandidateMoments,
        latents: Tensor,
        numbers: Iterator[Tensor],
        temperature: float,
    ) -> Int[Tensor, "n S"]:
        """Gibbs sweeps: every source is drawn anew, given the others; leaves the tempered posterior invariant."""
        codes, noise = codes.clone(), self._likelihood.noise
        residual, variance = self._residual(latents, codes)
        for _ in range(SWEEPS):
            for s, source in enumerate(self._sources):
                residual = residual + source.vectors[codes[:, s]]
                variance = (variance - source.variances[codes[:, s]]).clamp(min=noise)  # rounding
                log_weights = self._log_conditional(s, own, residual, variance)
                codes[:, s] = draw_one(log_weights.div_(temperature), next(numbers))[0]
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
        """λ times the log likelihood, given |r|², which rounding may have made negative, and σ²; changes `squared`."""
        return self._likelihood.of_residual(squared.clamp_(min=0), variance, self._likelihood_weight)

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
            own, later = CandidateMoments(self._sources, own_rows), range(s + 1, num_sources)
            scores = self._log_weights(s, later, own, residual, variance) + log_prior.view(-1, 1)
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
