"""Posterior over pairs of source codes at one position, restricted to the non-zero entries of the likelihood."""

# M mixtures, C candidates before the step, N after it, K num_codes

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.devices.numerics import running_sum
from lass.likelihood import Pairs
from lass.samplers.drawing import invert_log_weights, invert_running_sum
from lass.samplers.protocol import Drawn
from lass.separation.batched_priors import LogPrior

BYTES_PER_ENTRY = 24  # per candidate and pair: log posterior, tempered copy, exponential, cumulative sum, others
NUCLEUS = 64  # initial number of best pairs in the search for the nucleus; multiplied by 4 until their mass reaches p
CACHE_BYTES = 2**22  # largest temporaries on a CPU, so that they stay in its cache
PRODUCT_FROM_DENSITY = 1 / 128  # density of the pairs from which the matrix product is faster than gathering
SMALLEST_TOTAL = 1e-20  # smallest sum of products of probabilities that is accurate in spite of underflow in its terms


class StepPosterior:
    """Posterior of Algorithm 1, prior × likelihood^λ, at one position for M mixtures × C candidates.

    Implements `lass.samplers.Posterior`. Let L[a,b] be the likelihood of the mixture at this position given the pair of
    codes (a, b). The unnormalised posterior of a candidate with the pasts z¹ and z² is p(a|z¹)·p(b|z²)·L[a,b]^λ. It is
    zero except at the pairs given by the likelihood, and is evaluated at these only. Candidates whose sources have
    equal pasts share one posterior. It is computed by one of two methods, separately for each mixture and in chunks of
    candidates, so that no temporary exceeds the memory budget:

    - Gathering: the log posterior of every candidate and pair is gathered. Used for the best pairs and the nucleus, and
      for normaliser and draws if the mixture has few pairs.
    - Matrix product: the marginal posterior of the first code, p(a|z¹)·Σ_b p(b|z²)·L[a,b]^λ, is one matrix product for
      all candidates. Its sum over a is the normaliser Z_s. The first code is drawn from it, the second from
      p(b|z²)·L[a,b]^λ given the first. The cost does not depend on the number of pairs, and no candidate's K×K
      posterior is stored.

    Both methods invert the cumulative sum over pairs in the order (first, second), so that they map a uniform number to
    the same pair.

    Args:
        log_priors: log p(next code | past) of the two sources.
        pairs: Pairs and their log likelihood, one entry per mixture.
        likelihood_weight: Exponent of the likelihood, λ in the paper.
        log_weights: Log importance weights of the candidates from the sampler; None for equal weights.
        memory_budget: Upper bound of the temporaries in bytes.
        symmetric: Whether the likelihood of (first, second) always equals that of (second, first).

    Source: LASS (arXiv:2301.08562), Algorithm 1, Lines 5 to 7; the matrix product is our own.
    """

    num_uniforms = 1

    def __init__(
        self,
        log_priors: Sequence[LogPrior],
        pairs: Sequence[Pairs],
        likelihood_weight: float,
        log_weights: Float[Tensor, "M C"] | None = None,
        memory_budget: int = 2**30,
        symmetric: bool = False,
    ) -> None:
        self.num_mixtures, self.num_candidates = log_priors[0].row_of.shape
        if log_weights is None:
            log_weights = log_priors[0].rows.new_zeros(self.num_mixtures, self.num_candidates)
        self.log_weights = log_weights
        self._mixtures = [
            _MixturePosterior(
                [LogPrior(rows, row_of[mixture]) for rows, row_of in log_priors],
                pairs[mixture],
                likelihood_weight,
                memory_budget // self.num_mixtures,
                # Sources with one prior object share their rows: equal row indices mean equal pasts and classes.
                symmetric and log_priors[0].rows is log_priors[1].rows,
            )
            for mixture in range(self.num_mixtures)
        ]

    def draw(
        self,
        parents: Int[Tensor, "M N"],
        uniforms: Float[Tensor, "M N 1"],
        temperature: float = 1.0,
        at_least: Float[Tensor, "M C"] | None = None,
    ) -> Drawn:
        """See `Posterior`."""
        drawn = []
        for mixture, posterior in enumerate(self._mixtures):
            lowest = None if at_least is None else at_least[mixture]
            drawn.append(posterior.draw(parents[mixture], uniforms[mixture, :, 0], temperature, lowest))
        return _stack(drawn)

    def best(self, k: int, canonical: bool = False) -> Drawn:
        """See `Posterior`."""
        best = (posterior.best(k, canonical) for posterior in self._mixtures)
        return _stack(best)

    def nucleus(self, p: float, temperature: float = 1.0) -> Float[Tensor, "M C"]:
        """See `Posterior`."""
        return torch.stack([posterior.nucleus(p, temperature) for posterior in self._mixtures])

    def log_normalizer(self, temperature: float = 1.0) -> Float[Tensor, "M C"]:
        """See `Posterior`."""
        return torch.stack([posterior.log_normalizer(temperature) for posterior in self._mixtures])


class _MixturePosterior:
    """Posterior of one mixture, evaluated once per distinct candidate; see `StepPosterior`."""

    def __init__(
        self,
        log_priors: Sequence[LogPrior],
        pairs: Pairs,
        likelihood_weight: float,
        memory_budget: int,
        exchangeable: bool,
    ) -> None:
        (rows_1, row_1), (rows_2, row_2) = log_priors
        distinct, self._which = (row_1 * len(rows_2) + row_2).unique(return_inverse=True)  # per candidate
        distinct_1, distinct_2 = distinct // len(rows_2), distinct % len(rows_2)
        self._log_prior_1, self._log_prior_2 = rows_1[distinct_1], rows_2[distinct_2]
        #: Candidates of exchangeable sources with equal pasts: (a, b) and (b, a) continue them to the same sequences.
        self._mirrored = (distinct_1 == distinct_2) & exchangeable
        self._first, self._second, log_likelihood = pairs
        self._log_likelihood = likelihood_weight * log_likelihood
        self._memory_budget = memory_budget
        self._products: dict[float, _Product] = {}

    def draw(self, parents: Tensor, uniforms: Tensor, temperature: float, at_least: Tensor | None) -> Drawn:
        if at_least is not None:
            return self._draw_through_pairs(self._which[parents], uniforms, temperature, at_least[parents])
        parents = self._which[parents]
        product = self._product(temperature)
        if product is None:
            return self._draw_through_pairs(parents, uniforms, temperature)
        drawn = product.draw(parents, uniforms)
        imprecise = product.is_imprecise[parents]
        if imprecise.any():
            again = self._draw_through_pairs(parents[imprecise], uniforms[imprecise], temperature)
            codes = drawn.codes.masked_scatter(imprecise[:, None], again.codes)
            drawn = Drawn(codes, drawn.log_posterior.masked_scatter(imprecise, again.log_posterior))
        return drawn

    def best(self, k: int, canonical: bool) -> Drawn:
        best, descending, start = [], self._first > self._second, 0
        for log_posterior in self._through_pairs():
            if canonical:
                mirrored = self._mirrored[start : (start := start + len(log_posterior)), None]
                log_posterior = log_posterior.masked_fill_(mirrored & descending, -torch.inf)
            values, chosen = log_posterior.topk(min(k, log_posterior.shape[1]), dim=1)
            codes, missing = torch.stack([self._first[chosen], self._second[chosen]], -1), k - values.shape[1]
            if missing > 0:  # fewer than k pairs
                codes = torch.nn.functional.pad(codes, (0, 0, 0, missing))
                values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
            best.append((codes, values))
        codes, values = (torch.cat(parts)[self._which] for parts in zip(*best, strict=True))
        return Drawn(codes, values)

    def nucleus(self, p: float, temperature: float) -> Tensor:
        lowest = []
        for log_posterior in self._through_pairs():
            log_normalizer = (log_posterior / temperature).logsumexp(1, keepdim=True)
            k, num_pairs = min(NUCLEUS, log_posterior.shape[1]), log_posterior.shape[1]
            while True:
                values = log_posterior.topk(k, dim=1).values
                mass = running_sum((values / temperature - log_normalizer).exp())
                if k == num_pairs or not (mass[:, -1] < p).any():
                    break
                k = min(4 * k, num_pairs)
            num_kept = (mass < p).sum(1).clamp(max=k - 1)  # the pairs before the one that reaches p
            lowest.append(values.gather(1, num_kept[:, None])[:, 0])
        return torch.cat(lowest)[self._which]

    def log_normalizer(self, temperature: float) -> Tensor:
        product = self._product(temperature)
        if product is None:
            return self._log_normalizer_through_pairs(temperature)[self._which]
        result = product.log_normalizer
        if product.is_imprecise.any():
            candidates = product.is_imprecise.nonzero()[:, 0]
            again = self._log_normalizer_through_pairs(temperature, candidates)
            result = result.index_copy(0, candidates, again)
        return result[self._which]

    def _product(self, temperature: float) -> _Product | None:
        """Return the matrix product for this temperature, computed once; None if gathering is cheaper or memory is
        short.
        """
        num_candidates, num_codes = self._log_prior_1.shape
        num_bytes = 4 * num_codes * (3 * num_codes + 6 * num_candidates) * len({*self._products, temperature})
        if len(self._first) < PRODUCT_FROM_DENSITY * num_codes**2 or num_bytes > self._memory_budget:
            return None
        if temperature not in self._products:
            log_priors = (self._log_prior_1, self._log_prior_2)
            pairs = (self._first, self._second)
            self._products[temperature] = _Product(*log_priors, *pairs, self._log_likelihood, temperature)
        return self._products[temperature]

    def _draw_through_pairs(
        self, parents: Tensor, uniforms: Tensor, temperature: float, at_least: Tensor | None = None
    ) -> Drawn:
        if len(self._log_prior_1) == 1:  # one posterior for all draws, as at the first position
            parents, uniforms = parents[:1], uniforms[None]
        else:
            uniforms = uniforms[:, None]
        drawn, start = [], 0
        for log_posterior in self._through_pairs(parents):
            group = slice(start, start := start + len(log_posterior))
            log_weights = log_posterior / temperature
            if at_least is not None:
                log_weights.masked_fill_(log_posterior < at_least[group, None], -torch.inf)
            chosen = invert_log_weights(log_weights, uniforms[group])
            codes = torch.stack([self._first[chosen], self._second[chosen]], -1)
            drawn.append((codes.flatten(0, 1), log_posterior.gather(1, chosen).flatten()))
        codes, values = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        return Drawn(codes, values)

    def _log_normalizer_through_pairs(self, temperature: float, candidates: Tensor | None = None) -> Tensor:
        return torch.cat([(x / temperature).logsumexp(1) for x in self._through_pairs(candidates)])

    def _through_pairs(self, candidates: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the log posterior of all pairs, (candidates in the chunk, pairs), for one chunk of candidates at a
        time.
        """
        log_priors = [self._log_prior_1, self._log_prior_2]
        if candidates is not None:
            log_priors = [log_prior[candidates] for log_prior in log_priors]
        num_bytes = min(self._memory_budget, CACHE_BYTES) if self._first.device.type == "cpu" else self._memory_budget
        group_size = max(1, num_bytes // (BYTES_PER_ENTRY * len(self._first)))
        for log_prior_1, log_prior_2 in zip(*(x.split(group_size) for x in log_priors), strict=True):
            log_posterior = log_prior_1.index_select(1, self._first)
            log_posterior += log_prior_2.index_select(1, self._second)
            log_posterior += self._log_likelihood
            yield log_posterior


class _Product:
    """Normaliser and draws of the tempered posterior of C candidates by a matrix product; see `StepPosterior`.

    Args:
        log_prior_1, log_prior_2: (C, K).
        first, second: (pairs,), codes of the pairs with non-zero likelihood. Only the range from the smallest to the
            largest of each takes part, which for a codec with groups of codes is a group.
        log_likelihood: (pairs,), multiplied by λ.
        temperature: The posterior is raised to the power 1 / temperature.
    """

    def __init__(
        self,
        log_prior_1: Tensor,
        log_prior_2: Tensor,
        first: Tensor,
        second: Tensor,
        log_likelihood: Tensor,
        temperature: float,
    ) -> None:
        self._lowest = int(first[0]), int(second.min())  # `first` is sorted
        sizes = int(first[-1]) + 1 - self._lowest[0], int(second.max()) + 1 - self._lowest[1]
        log_prior_1, log_prior_2 = (
            log_prior.narrow(1, lowest, size)
            for log_prior, lowest, size in zip((log_prior_1, log_prior_2), self._lowest, sizes, strict=True)
        )
        self._log_prior_1, self._log_prior_2, self._temperature = log_prior_1, log_prior_2, temperature
        self._highest = log_likelihood.max()
        likelihood = self._power(log_likelihood - self._highest)
        pair = (first - self._lowest[0]) * sizes[1] + second - self._lowest[1]
        dense = likelihood.new_zeros(sizes[0] * sizes[1]).scatter_(0, pair, likelihood)
        self._likelihood = dense.view(sizes)
        self._weights_2 = self._power(log_prior_2)
        # Marginal posterior of the first code (unnormalised), and its cumulative sum.
        mass = self._power(log_prior_1).mul_(self._weights_2 @ self._likelihood.T)
        self._running_sum = running_sum(mass)
        total = self._running_sum[:, -1]
        self.log_normalizer = total.log() + self._highest / temperature
        self.is_imprecise = total < SMALLEST_TOTAL

    def draw(self, parents: Tensor, uniforms: Tensor) -> Drawn:
        first, rest = invert_running_sum(self._running_sum[parents], uniforms[:, None])
        first = first[:, 0]
        weights_2 = self._weights_2[parents].mul_(self._likelihood[first])
        second, _ = invert_running_sum(running_sum(weights_2), rest)
        second = second[:, 0]
        log_likelihood = self._likelihood[first, second].log() * self._temperature + self._highest
        log_prior = self._log_prior_1[parents, first] + self._log_prior_2[parents, second]
        codes = torch.stack([first + self._lowest[0], second + self._lowest[1]], -1)
        return Drawn(codes, log_prior + log_likelihood)

    def _power(self, log_values: Tensor) -> Tensor:
        return (log_values if self._temperature == 1 else log_values / self._temperature).exp()


def _stack(drawn: Iterable[Drawn]) -> Drawn:
    """Stack the draws of all mixtures; draws from pairs are exact, so they have no `log_proposal`."""
    codes, log_posterior = zip(*((each.codes, each.log_posterior) for each in drawn), strict=True)
    return Drawn(torch.stack(codes), torch.stack(log_posterior))
