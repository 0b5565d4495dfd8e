"""Posterior over tuples of source codes at one position, with a chain of counted tables of partial mixtures."""

# M mixtures, C candidates before the step, N after it, S sources, K num_codes, D distinct candidates of a mixture

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.likelihood.chain import ChainLikelihood, Entries
from lass.samplers.drawing import gather_rows, invert_log_weights
from lass.samplers.protocol import Drawn
from lass.separation.batched_priors import LogPrior
from lass.separation.searched_posterior import SearchedPosterior

BYTES_PER_ENTRY = 32  # per candidate and entry of a table: log weights, their exponential, indices, others
BYTES_PER_CHAIN = 64  # per candidate, chain of codes and its continuation
BEAMS = 256  # least number of chains of codes that are kept in the search for the most probable tuples


class ChainPosterior(SearchedPosterior):
    """Posterior of Algorithm 1, prior × likelihood^λ, at one position for M mixtures × C candidates and S sources.

    Implements `lass.samplers.Posterior`. The codes m₂ … m_{S−1} of the partial mixtures are unknown, and are summed
    over. Forward sums αₛ(m) = Σ over mₛ₋₁ and zₛ of αₛ₋₁(mₛ₋₁) p(zₛ) p(m | mₛ₋₁, zₛ), with α₁ = p(z₁), give the
    normaliser. Tuples are then drawn backwards: (mₛ₋₁, zₛ) given mₛ, from s = S to 2. The cost is the number of entries
    of the tables that lead to the mixture's code, per distinct candidate.

    Draws and normaliser are exact where λ equals the temperature, as for λ = 1 without temperature. Otherwise the power
    of the sum over partial mixtures is not a sum of powers: tuples are then drawn with every table to the power
    λ / temperature, and weighted (`Drawn.log_weights`). `best` keeps the best max(k, 256) chains of codes, source by
    source, and scores their tuples exactly.

    Args:
        log_priors: log p(next code | past) of each source.
        likelihood: Chain of S − 1 tables.
        mixture_codes: Code of each mixture at this position.
        likelihood_weight: Exponent of the likelihood, λ in the paper.
        log_weights: Log importance weights of the candidates from the sampler; None for equal weights.
        memory_budget: Upper bound of the temporaries in bytes; at least one candidate is evaluated at a time.

    Source: our own; LASS (arXiv:2301.08562), Algorithm 1, for more than two sources. Forward sums and backward draws:
    Scott 2002.
    """

    def __init__(
        self,
        log_priors: Sequence[LogPrior],
        likelihood: ChainLikelihood,
        mixture_codes: Sequence[int],
        likelihood_weight: float,
        log_weights: Float[Tensor, "M C"] | None = None,
        memory_budget: int = 2**30,
    ) -> None:
        super().__init__(log_priors, log_weights)
        self.num_uniforms = likelihood.num_sources - 1
        self._likelihood_weight = likelihood_weight
        self._mixtures = [
            _MixturePosterior(
                [rows for rows, _ in log_priors],
                torch.stack([row_of[mixture] for _, row_of in log_priors], 1),
                likelihood,
                code,
                likelihood_weight,
                memory_budget // self.num_mixtures,
            )
            for mixture, code in enumerate(mixture_codes)
        ]

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
        per_mixture = zip(self._mixtures, parents, uniforms, strict=True)
        codes, log_posterior, log_proposal = zip(
            *(x.draw(own, u, temperature) for x, own, u in per_mixture), strict=True
        )
        scores = torch.stack(log_posterior)
        if self._is_exact(temperature):
            return Drawn(torch.stack(codes), scores)
        return Drawn(torch.stack(codes), scores, scores / temperature - torch.stack(log_proposal))

    def best(self, k: int, canonical: bool = False) -> Drawn:
        """See `Posterior`; the search keeps max(k, 256) chains of codes."""
        codes, log_posterior = zip(*(posterior.best(k, canonical) for posterior in self._mixtures), strict=True)
        return Drawn(torch.stack(codes), torch.stack(log_posterior))

    def log_normalizer(self, temperature: float = 1.0) -> Float[Tensor, "M C"] | None:
        """See `Posterior`; None where the draws are not exact."""
        if not self._is_exact(temperature):
            return None
        return torch.stack([posterior.log_normalizer(temperature) for posterior in self._mixtures])

    def _is_exact(self, temperature: float) -> bool:
        return self._likelihood_weight == temperature


class _MixturePosterior:
    """Posterior of one mixture, evaluated once per distinct candidate; see `ChainPosterior`."""

    def __init__(
        self,
        log_priors: list[Float[Tensor, "_ K"]],
        rows: Int[Tensor, "C S"],
        likelihood: ChainLikelihood,
        mixture_code: int,
        likelihood_weight: float,
        memory_budget: int,
    ) -> None:
        distinct, self._which = rows.unique(dim=0, return_inverse=True)  # per candidate
        self._log_priors = [log_prior[distinct[:, s]] for s, log_prior in enumerate(log_priors)]  # (D, K) each
        self._likelihood, self._mixture_code = likelihood, mixture_code
        self._likelihood_weight, self._memory_budget = likelihood_weight, memory_budget
        first_table = likelihood.tables[0]
        #: The first two sources are exchangeable if they share their rows: equal row indices mean equal pasts.
        same = log_priors[0] is log_priors[1] and first_table.symmetric
        self._mirrored = (distinct[:, 0] == distinct[:, 1]) & same  # (D,)
        pairs = likelihood.pairs(mixture_code)
        self._last = Entries(
            pairs.first, pairs.second, torch.full_like(pairs.first, mixture_code), pairs.log_likelihood
        )
        self._sums: dict[float, list[Tensor]] = {}

    def draw(self, parents: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one tuple per parent: codes (N, S), log posterior and log probability of the draw (N,)."""
        which, exponent = self._which[parents], self._likelihood_weight / temperature
        sums, mixture = self._forward(temperature), torch.full_like(which, self._mixture_code)
        codes: list[Tensor] = []
        for s in range(len(self._log_priors) - 1, 0, -1):
            mixture, code = self._backwards(s, which, mixture, sums[s - 1], uniforms[:, s - 1], temperature)
            codes.append(code)
        drawn = torch.stack([mixture, *codes[::-1]], 1)
        log_prior = self._log_prior(which, drawn)
        log_likelihood = self._likelihood.log_likelihood(drawn, self._mixture_code)
        log_posterior = log_prior + self._likelihood_weight * log_likelihood
        if exponent != 1:
            log_likelihood = self._likelihood.log_likelihood(drawn, self._mixture_code, exponent)
        log_proposal = log_prior / temperature + log_likelihood - self._log_total(temperature)[which]
        return drawn, log_posterior, log_proposal

    def log_normalizer(self, temperature: float) -> Tensor:
        """Log of the sum over all tuples, for every candidate."""
        return self._log_total(temperature)[self._which]

    def _log_total(self, temperature: float) -> Float[Tensor, " D"]:
        chunks = self._log_weights(len(self._log_priors) - 1, self._last, self._forward(temperature)[-1], temperature)
        return torch.cat([log_weights.logsumexp(1) for log_weights in chunks])

    def _log_prior(self, which: Int[Tensor, " n"], codes: Int[Tensor, "n S"]) -> Float[Tensor, " n"]:
        return torch.stack([x[which, codes[:, s]] for s, x in enumerate(self._log_priors)]).sum(0)

    def _forward(self, temperature: float) -> list[Float[Tensor, "D K"]]:
        """Log α₁ … log α_{S−1}, each (D, K), at the codes that can lead to the mixture's code; −inf elsewhere."""
        if temperature not in self._sums:
            tables = [*map(self._likelihood.entries, range(len(self._log_priors) - 2)), self._last]
            needed = [tables[-1]]  # entries that lead to the mixture's code, from the last table to the first
            for entries in tables[-2::-1]:
                leads = torch.zeros(self._likelihood.num_codes, dtype=torch.bool, device=entries.first.device)
                leads[needed[-1].first] = True
                needed.append(Entries(*(field[leads[entries.mixture]] for field in entries)))
            sums = [self._log_priors[0] / temperature]
            for s, entries in enumerate(needed[:0:-1], 1):
                chunks = self._log_weights(s, entries, sums[-1], temperature)
                sums.append(torch.cat([self._summed(log_weights, entries.mixture) for log_weights in chunks]))
            self._sums[temperature] = sums
        return self._sums[temperature]

    def _log_weights(
        self, s: int, entries: Entries, log_sums: Float[Tensor, "D K"], temperature: float
    ) -> Iterator[Float[Tensor, "part entries"]]:
        """Log of αₛ₋₁(first) p(second) p(mixture | first, second) of every entry, for one chunk of candidates at a
        time.
        """
        size = self._candidates_at_once(entries)
        for own_sums, log_prior in zip(log_sums.split(size), self._log_priors[s].split(size), strict=True):
            log_weights = own_sums[:, entries.first] + log_prior[:, entries.second] / temperature
            yield log_weights + self._likelihood_weight / temperature * entries.log_likelihood

    def _candidates_at_once(self, entries: Entries) -> int:
        """Number of candidates for which these entries, and numbers of all codes, fit into the memory budget."""
        return max(1, self._memory_budget // (BYTES_PER_ENTRY * max(len(entries.first), self._likelihood.num_codes)))

    def _summed(
        self, log_weights: Float[Tensor, "n entries"], mixture: Int[Tensor, " entries"]
    ) -> Float[Tensor, "n K"]:
        """Log of the sum over the entries of each mixture code."""
        index = mixture.expand_as(log_weights)
        highest = log_weights.new_full((len(log_weights), self._likelihood.num_codes), -torch.inf)
        highest = highest.scatter_reduce(1, index, log_weights, "amax")
        finite = highest.nan_to_num(neginf=0.0)
        total = torch.zeros_like(highest).index_add_(1, mixture, (log_weights - finite.gather(1, index)).exp())
        return total.log() + finite

    def _entries_of(self, s: int, mixture_code: int) -> Entries:
        """Entries of the table of source s with one mixture code."""
        if s == len(self._log_priors) - 1:
            return self._last
        return self._likelihood.entries_of(s - 1, mixture_code)

    def _backwards(
        self, s: int, which: Tensor, mixture: Tensor, log_sums: Tensor, uniforms: Tensor, temperature: float
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Draw (mₛ₋₁, zₛ) given mₛ."""
        before, code = torch.zeros_like(mixture), torch.zeros_like(mixture)
        for value in mixture.unique().tolist():
            rows, entries = (mixture == value).nonzero()[:, 0], self._entries_of(s, value)
            for own in rows.split(self._candidates_at_once(entries)):
                log_weights = log_sums[which[own]][:, entries.first]
                log_weights = log_weights + self._log_priors[s][which[own]][:, entries.second] / temperature
                log_weights = log_weights + self._likelihood_weight / temperature * entries.log_likelihood
                chosen = invert_log_weights(log_weights, uniforms[own, None])[:, 0]
                before[own], code[own] = entries.first[chosen], entries.second[chosen]
        return before, code

    def best(self, k: int, canonical: bool) -> tuple[Int[Tensor, "C k S"], Float[Tensor, "C k"]]:
        """Best tuples of every candidate and their log posterior, best first, filled up with −inf."""
        num_beams = max(k, BEAMS)
        size = max(1, self._memory_budget // (BYTES_PER_CHAIN * num_beams**2))
        parts = torch.arange(len(self._mirrored), device=self._which.device).split(size)
        codes, values = zip(*(self._best(own, k, num_beams, canonical) for own in parts), strict=True)
        return torch.cat(codes)[self._which], torch.cat(values)[self._which]

    def _best(
        self, own: Int[Tensor, " part"], k: int, num_beams: int, canonical: bool
    ) -> tuple[Int[Tensor, "part k S"], Float[Tensor, "part k"]]:
        """Best tuples of some distinct candidates."""
        sums, num = [x[own] for x in self._forward(1.0)], len(own)
        codes = self._which.new_zeros(num, 1, 0)
        mixture = self._which.new_full((num, 1), self._mixture_code)
        tail = self._log_priors[0].new_zeros(num, 1)  # log prior and likelihood of the sources after s
        for s in range(len(self._log_priors) - 1, 0, -1):
            found = self._extended(s, own, mixture, tail, sums[s - 1], num_beams)
            kept, chosen = found["score"].topk(min(num_beams, found["score"].shape[1]), dim=1)
            mixture, tail, parents, code = (
                found[name].gather(1, chosen) for name in ("first", "tail", "parent", "code")
            )
            tail = tail.masked_fill(kept == -torch.inf, -torch.inf)
            codes = torch.cat([code[..., None], gather_rows(codes, parents)], -1)
        codes = torch.cat([mixture[..., None], codes], -1)  # m₁ is z₁
        flat = codes.flatten(0, 1)
        scores = self._log_prior(own.repeat_interleave(codes.shape[1]), flat)
        scores = scores + self._likelihood_weight * self._likelihood.log_likelihood(flat, self._mixture_code)
        scores = scores.view(tail.shape).masked_fill(tail == -torch.inf, -torch.inf)
        scores = scores.masked_fill(_is_repeated(codes), -torch.inf)
        if canonical:
            descending = codes[..., 0] > codes[..., 1]
            scores = scores.masked_fill(self._mirrored[own, None] & descending, -torch.inf)
        missing = k - scores.shape[1]
        if missing > 0:
            codes = torch.nn.functional.pad(codes, (0, 0, 0, missing))
            scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
        values, chosen = scores.topk(k, dim=1)
        return gather_rows(codes, chosen), values

    def _extended(
        self, s: int, candidates: Tensor, mixture: Tensor, tail: Tensor, log_sums: Tensor, num_beams: int
    ) -> dict[str, Float[Tensor, "D options"] | Int[Tensor, "D options"]]:
        """Best pairs (mₛ₋₁, zₛ) for every chain: their codes, parent, log score, and the score without αₛ₋₁."""
        num, num_chains = mixture.shape
        most = num_beams
        shape = (num, num_chains, most)
        found = {name: mixture.new_zeros(shape) for name in ("first", "code")}
        found["score"], found["tail"] = (tail.new_full(shape, -torch.inf) for _ in range(2))
        for value in mixture[tail > -torch.inf].unique().tolist():
            which, chain = ((mixture == value) & (tail > -torch.inf)).nonzero().T
            entries = self._entries_of(s, value)
            size = self._candidates_at_once(entries)
            for own in torch.arange(len(which), device=which.device).split(size):
                d, b = which[own], chain[own]
                longer = tail[d, b][:, None] + self._log_priors[s][candidates[d]][:, entries.second]
                longer = longer + self._likelihood_weight * entries.log_likelihood
                kept, chosen = (longer + log_sums[d][:, entries.first]).topk(min(most, longer.shape[1]), dim=1)
                values = (entries.first[chosen], entries.second[chosen], kept, longer.gather(1, chosen))
                for name, new in zip(("first", "code", "score", "tail"), values, strict=True):
                    found[name][d, b, : kept.shape[1]] = new
        parent = torch.arange(num_chains, device=mixture.device)[None, :, None].expand(shape)
        return {name: x.flatten(1) for name, x in {**found, "parent": parent}.items()}


def _is_repeated(codes: Int[Tensor, "D beams S"]) -> Tensor:
    """Whether a tuple occurs at an earlier beam of the same candidate: (D, beams) bool."""
    num, num_beams, _ = codes.shape
    which = torch.arange(num, device=codes.device)[:, None, None].expand(-1, num_beams, 1)
    rows = torch.cat([which, codes], 2).flatten(0, 1)
    _, index = rows.unique(dim=0, return_inverse=True)
    position = torch.arange(len(rows), device=codes.device)
    earliest = torch.full_like(position, len(rows)).scatter_reduce(0, index, position, "amin")
    return (earliest[index] != position).view(num, num_beams)
