"""Posterior over tuples of source codes at one position, for any number of sources, with an additive likelihood."""

# M mixtures, C candidates before the step, N after it, S sources, K num_codes, d channels of the latents

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.likelihood import AdditiveLikelihood
from lass.samplers.drawing import gather_rows, invert_log_weights
from lass.samplers.protocol import Drawn
from lass.separation.batched_priors import LogPrior

INFLATION = 4.0  # factor of the variance in the look-ahead, whose Gaussian is narrower than the sum of discrete vectors
REFINED = 32  # most probable codes of the last two sources whose combinations replace the Gaussian look-ahead
SWEEPS = 2  # Gibbs sweeps over the sources after the draw
BEAMS = 64  # least number of partial tuples that are kept in the search for the most probable tuples
NUCLEUS = 256  # number of most probable tuples to which the nucleus is limited
BYTES_PER_CODE = 64  # per candidate and code: log prior, distances, look-ahead, their sum, cumulative sum, others


class TuplePosterior:
    """Posterior of Algorithm 1, prior × likelihood^λ, at one position for M mixtures × C candidates and S sources.

    Implements `lass.samplers.Posterior`. The tuples number K^S, so they are not enumerated. A tuple is drawn source by
    source at a cost of S · K · d. With the sum of the vectors of the sources drawn so far, source s is drawn in
    proportion to its prior times a look-ahead: the likelihood, averaged over a Gaussian with the mean and variance that
    the priors give for the sum of the later sources. For the last source but one, the average is taken over the most
    probable codes of both sources instead. The last source is drawn from its exact conditional posterior. Gibbs sweeps
    over the sources follow, which leave the posterior invariant.

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
        self.num_mixtures, self.num_candidates = log_priors[0].row_of.shape
        if log_weights is None:
            log_weights = log_priors[0].rows.new_zeros(self.num_mixtures, self.num_candidates)
        self.log_weights = log_weights
        self.num_uniforms = len(log_priors) * (1 + SWEEPS)
        sources = _sources(log_priors, likelihood, mixing_weights)
        whitened = likelihood.whiten(latents)
        self._mixtures = [
            _MixturePosterior(
                sources,
                [row_of[mixture] for _, row_of in log_priors],
                likelihood,
                whitened[mixture],
                likelihood_weight,
                memory_budget // self.num_mixtures,
            )
            for mixture in range(self.num_mixtures)
        ]

    def draw(
        self,
        parents: Int[Tensor, "M N"],
        uniforms: Float[Tensor, "M N U"],
        temperature: float = 1.0,
        at_least: Float[Tensor, "M C"] | None = None,
    ) -> Drawn:
        """See `Posterior`."""
        drawn = []
        for mixture, posterior in enumerate(self._mixtures):
            if at_least is None:
                drawn.append(posterior.draw(parents[mixture], uniforms[mixture], temperature))
            else:
                own = uniforms[mixture, :, 0]
                drawn.append(posterior.draw_among_best(parents[mixture], own, temperature, at_least[mixture]))
        return _stack(drawn)

    def best(self, k: int, canonical: bool = False) -> Drawn:
        """See `Posterior`; the search keeps max(k, 64) partial tuples."""
        return _stack([posterior.best(k, canonical) for posterior in self._mixtures])

    def nucleus(self, p: float, temperature: float = 1.0) -> Float[Tensor, "M C"]:
        """See `Posterior`; normalised over the 256 best tuples."""
        return torch.stack([posterior.nucleus(p, temperature) for posterior in self._mixtures])

    def log_normalizer(self, temperature: float = 1.0) -> None:
        """None: the sum over all tuples is not computed; see `Drawn.log_weights`."""


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


class _MixturePosterior:
    """Posterior of one mixture; see `TuplePosterior`."""

    def __init__(
        self,
        sources: list[_Source],
        rows: list[Int[Tensor, " C"]],
        likelihood: AdditiveLikelihood,
        latents: Float[Tensor, " dim"],
        likelihood_weight: float,
        memory_budget: int,
    ) -> None:
        self._sources, self._rows, self._likelihood = sources, rows, likelihood
        self._latents, self._likelihood_weight = latents, likelihood_weight
        self._chunk = max(1, memory_budget // (BYTES_PER_CODE * (likelihood.num_codes + REFINED**2)))
        self._memory_budget = memory_budget
        self._best: Drawn | None = None

    def draw(self, parents: Tensor, uniforms: Tensor, temperature: float) -> Drawn:
        """Draw one tuple per parent, (N, S); its `log_weights` estimate the normaliser of the tempered posterior."""
        chunks = zip(parents.split(self._chunk), uniforms.split(self._chunk), strict=True)
        drawn = [self._draw([row[own] for row in self._rows], numbers, temperature) for own, numbers in chunks]
        return Drawn(*(torch.cat(field) for field in zip(*drawn, strict=True)))

    def _draw(self, rows: list[Tensor], uniforms: Tensor, temperature: float) -> Drawn:
        """Draw one tuple for each entry of the rows."""
        num, num_sources = len(uniforms), len(self._sources)
        numbers = iter(uniforms.unbind(1))
        residual = self._latents.expand(num, -1)
        variance = torch.full((num,), self._likelihood.noise, device=residual.device)
        log_proposal, codes = torch.zeros_like(variance), []
        for s, source in enumerate(self._sources):
            log_weights = self._log_weights(s, rows, residual, variance)
            if s == num_sources - 2:
                log_weights = self._refined(log_weights, rows, residual, variance)
            if temperature != 1:
                log_weights = log_weights / temperature
            chosen, log_probability = _drawn(log_weights, next(numbers))
            log_proposal += log_probability
            codes.append(chosen)
            residual, variance = residual - source.vectors[chosen], variance + source.variances[chosen]
        drawn = torch.stack(codes, 1)
        log_weights = self.log_posterior(rows, drawn) / temperature - log_proposal
        drawn = self._swept(drawn, rows, numbers, temperature)
        return Drawn(drawn, self.log_posterior(rows, drawn), log_weights)

    def _log_weights(self, s: int, rows: list[Tensor], residual: Tensor, variance: Tensor) -> Float[Tensor, "n K"]:
        """Log prior of source s times the look-ahead, the likelihood averaged over the later sources.

        Args:
            s: Source.
            rows: (n,) each, row of the log priors.
            residual: (n, d), latents minus the vectors of the earlier sources.
            variance: (n,), noise and variance of the earlier sources.
        """
        source, later = self._sources[s], range(s + 1, len(self._sources))
        log_prior = source.log_prior[rows[s]]
        if not later:
            return log_prior + self._log_likelihood(_squared(residual, source), variance[:, None] + source.variances)
        mean = sum(self._sources[t].mean[rows[t]] for t in later)
        spread = sum(self._sources[t].spread[rows[t]] for t in later)
        noise = INFLATION * (variance + sum(self._sources[t].noise[rows[t]] for t in later))[:, None]
        precision = 1 / (noise + spread)
        distance = ((residual - mean).square() * precision).sum(1, keepdim=True)
        distance = distance - 2 * ((residual - mean) * precision) @ source.vectors.T
        distance = distance + precision @ source.vectors.square().T
        # log_scale makes the average comparable between look-aheads: a wider one has a lower peak.
        log_scale = (noise * precision).log().sum(1, keepdim=True)
        return log_prior + self._likelihood_weight / 2 * (log_scale - distance.clamp(min=0))

    def _refined(
        self, log_weights: Float[Tensor, "n K"], rows: list[Tensor], residual: Tensor, variance: Tensor
    ) -> Float[Tensor, "n K"]:
        """Replace the look-ahead of the best codes of the last source but one by the sum over codes of the last."""
        source, last = self._sources[-2], self._sources[-1]
        num_refined = min(REFINED, log_weights.shape[1])
        own = log_weights.topk(num_refined, dim=1, sorted=False).indices
        log_prior, others = last.log_prior[rows[-1]].topk(num_refined, dim=1, sorted=False)
        left = residual[:, None] - source.vectors[own]  # (n, refined, d)
        squared = left.square().sum(2)[:, :, None] + last.squared_norms[others][:, None]
        squared = torch.baddbmm(squared, left, last.vectors[others].transpose(1, 2), alpha=-2)
        both = variance[:, None, None] + source.variances[own][:, :, None] + last.variances[others][:, None]
        log_sum = (self._log_likelihood(squared, both) + log_prior[:, None]).logsumexp(2)
        return log_weights.scatter(1, own, source.log_prior[rows[-2]].gather(1, own) + log_sum)

    def _swept(self, codes: Int[Tensor, "n S"], rows: list[Tensor], numbers, temperature: float) -> Int[Tensor, "n S"]:
        """Gibbs sweeps: every source is drawn anew, given the others; leaves the tempered posterior invariant."""
        codes = codes.clone()
        residual, variance = self._residual(codes)
        for _ in range(SWEEPS):
            for s, source in enumerate(self._sources):
                residual, variance = residual + source.vectors[codes[:, s]], variance - source.variances[codes[:, s]]
                log_weights = source.log_prior[rows[s]] + self._log_likelihood(
                    _squared(residual, source), variance[:, None] + source.variances
                )
                codes[:, s] = _drawn(log_weights / temperature, next(numbers))[0]
                residual, variance = residual - source.vectors[codes[:, s]], variance + source.variances[codes[:, s]]
        return codes

    def _residual(self, codes: Int[Tensor, "*n S"]) -> tuple[Float[Tensor, "*n dim"], Float[Tensor, "*n"]]:
        vectors = sum(source.vectors[codes[..., s]] for s, source in enumerate(self._sources))
        variances = sum(source.variances[codes[..., s]] for s, source in enumerate(self._sources))
        return self._latents - vectors, self._likelihood.noise + variances

    def log_posterior(self, rows: list[Tensor], codes: Int[Tensor, "*n S"]) -> Float[Tensor, "*n"]:
        """Unnormalised log posterior of tuples."""
        residual, variance = self._residual(codes)
        log_prior = sum(source.log_prior[rows[s], codes[..., s]] for s, source in enumerate(self._sources))
        return log_prior + self._log_likelihood(residual.square().sum(-1), variance)

    def _log_likelihood(self, squared: Tensor, variance: Tensor) -> Tensor:
        return self._likelihood_weight * self._likelihood.of_residual(squared.clamp(min=0), variance)

    def best(self, k: int, canonical: bool) -> Drawn:
        """Return the best tuples of every candidate, found source by source."""
        num_beams = max(k, BEAMS)
        chunk = max(1, self._memory_budget // (BYTES_PER_CODE * num_beams * self._likelihood.num_codes))
        candidates = torch.arange(len(self._rows[0]), device=self._latents.device).split(chunk)
        found = [self._search([row[own] for row in self._rows], k, num_beams, canonical) for own in candidates]
        codes, log_posterior = zip(*found, strict=True)
        return Drawn(torch.cat(codes), torch.cat(log_posterior))

    def _search(self, rows: list[Tensor], k: int, num_beams: int, canonical: bool) -> tuple[Tensor, Tensor]:
        """Beam search over the sources: codes (n, k, S) and log posterior (n, k), best first, filled up with −inf."""
        num, num_codes, dim = len(rows[0]), self._likelihood.num_codes, len(self._latents)
        codes = rows[0].new_zeros(num, 1, 0)
        log_prior = torch.zeros(num, 1, device=self._latents.device)
        for s in range(len(self._sources)):
            num_partial = codes.shape[1]
            repeated = [row.repeat_interleave(num_partial) for row in rows]
            flat = codes.flatten(0, 1)
            sources = self._sources[:s]
            residual = self._latents.expand(len(flat), dim) - sum(x.vectors[flat[:, t]] for t, x in enumerate(sources))
            variance = self._likelihood.noise + sum(x.variances[flat[:, t]] for t, x in enumerate(sources))
            if not sources:
                variance = torch.full((len(flat),), self._likelihood.noise, device=residual.device)
            scores = self._log_weights(s, repeated, residual, variance) + log_prior.flatten()[:, None]
            if canonical:
                for t in range(s):
                    if self._sources[t] is self._sources[s]:
                        same = (repeated[t] == repeated[s])[:, None]
                        descending = torch.arange(num_codes, device=flat.device) < flat[:, t, None]
                        scores = scores.masked_fill(same & descending, -torch.inf)
            scores = scores.view(num, num_partial * num_codes)
            last = s == len(self._sources) - 1
            kept, chosen = scores.topk(min(k if last else num_beams, scores.shape[1]), dim=1)
            code = chosen % num_codes
            codes = torch.cat([gather_rows(codes, chosen // num_codes), code[..., None]], -1)
            if last:
                missing = k - kept.shape[1]
                codes = torch.nn.functional.pad(codes, (0, 0, 0, missing))
                return codes, torch.nn.functional.pad(kept, (0, missing), value=-torch.inf)
            log_prior = log_prior.gather(1, chosen // num_codes)
            log_prior = log_prior + self._sources[s].log_prior[rows[s]].gather(1, code)
            log_prior = log_prior.masked_fill(kept == -torch.inf, -torch.inf)
        raise AssertionError("unreachable: the last source returns")

    def _most_probable(self) -> Drawn:
        if self._best is None:
            self._best = self.best(NUCLEUS, canonical=False)
        return self._best

    def nucleus(self, p: float, temperature: float) -> Tensor:
        """Lowest log posterior in the nucleus of every candidate."""
        log_posterior = self._most_probable().log_posterior
        mass = (log_posterior / temperature).softmax(1).cumsum(1)
        num_kept = (mass < p).sum(1).clamp(max=mass.shape[1] - 1)
        return log_posterior.gather(1, num_kept[:, None])[:, 0]

    def draw_among_best(self, parents: Tensor, uniforms: Tensor, temperature: float, at_least: Tensor) -> Drawn:
        """Draw one of the most probable tuples whose log posterior is at least `at_least`."""
        codes, log_posterior = (field[parents] for field in self._most_probable()[:2])
        log_weights = (log_posterior / temperature).masked_fill(log_posterior < at_least[parents, None], -torch.inf)
        chosen = invert_log_weights(log_weights, uniforms[:, None])
        return Drawn(gather_rows(codes, chosen)[:, 0], log_posterior.gather(1, chosen)[:, 0])


def _squared(residual: Float[Tensor, "n dim"], source: _Source) -> Float[Tensor, "n K"]:
    """|residual − w u[k]|² of every code."""
    norms = residual.square().sum(1, keepdim=True) + source.squared_norms
    return torch.addmm(norms, residual, source.vectors.T, alpha=-2)


def _drawn(log_weights: Float[Tensor, "n options"], uniforms: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Draw one option per row; return its index and its log probability."""
    chosen = invert_log_weights(log_weights, uniforms[:, None])
    log_probability = log_weights.gather(1, chosen) - log_weights.logsumexp(1, keepdim=True)
    return chosen[:, 0], log_probability[:, 0]


def _stack(drawn: list[Drawn]) -> Drawn:
    codes, log_posterior = torch.stack([x.codes for x in drawn]), torch.stack([x.log_posterior for x in drawn])
    log_weights = [x.log_weights for x in drawn if x.log_weights is not None]
    return Drawn(codes, log_posterior, torch.stack(log_weights) if log_weights else None)
