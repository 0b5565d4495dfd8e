"""The posterior of one position, on the pairs that were counted and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lass.likelihood import Pairs
from lass.samplers.drawing import invert_cumulative
from lass.samplers.protocol import Drawn

BYTES_PER_ENTRY = 16  # a pair's log posterior, its exponential, the running sum, and one to spare


class StepPosterior:
    """Prior times likelihood at one position, for M mixtures × C candidates; implements `lass.samplers.Posterior`.

    Only the pairs counted with a mixture's code are looked at, mixture by mixture and in groups of candidates, so that
    no temporary exceeds the memory budget. The K×K matrix of the paper's Line 5 never exists.

    Args:
        log_priors: for each of the two sources, (M, C, K): log p(next code | its past).
        pairs: one per mixture.
        likelihood_weight: the paper's λ.
        memory_budget: bytes for temporaries.

    Source: LASS (arXiv:2301.08562), Algorithm 1, Lines 5 to 7.
    """

    def __init__(
        self,
        log_priors: Sequence[Float[Tensor, "M C K"]],
        pairs: Sequence[Pairs],
        likelihood_weight: float = 1.0,
        memory_budget: int = 2**28,
    ) -> None:
        self._log_prior_first, self._log_prior_second = log_priors
        self._pairs, self._likelihood_weight, self._memory_budget = pairs, likelihood_weight, memory_budget
        self.num_mixtures, self.num_candidates, _ = self._log_prior_first.shape

    def draw(self, uniforms: Float[Tensor, "M C n"], temperature: float = 1.0) -> Drawn:
        """See Posterior."""

        def draw(log_posterior: Tensor, mixture: int, candidates: slice) -> Tensor:
            return invert_cumulative(log_posterior / temperature, uniforms[mixture, candidates])

        return self._choose(draw)

    def best(self, k: int) -> Drawn:
        """See Posterior."""

        def best(log_posterior: Tensor, mixture: int, candidates: slice) -> Tensor:
            return log_posterior.topk(min(k, log_posterior.shape[1]), dim=1).indices

        return self._choose(best, fill_up_to=k)

    def log_normalizer(self) -> Float[Tensor, "M C"]:
        """See Posterior."""
        return self._reduce(lambda log_posterior: log_posterior.logsumexp(1))

    def entropy(self) -> Float[Tensor, "M C"]:
        """See Posterior."""
        return self._reduce(lambda log_posterior: torch.special.entr(log_posterior.softmax(1)).sum(1))

    def _groups(self) -> Iterator[tuple[int, slice, Tensor]]:
        """Mixture, group of its candidates, and their log posterior (candidates in the group, nonzeros)."""
        for mixture, (first, second, log_likelihood) in enumerate(self._pairs):
            weighted = self._likelihood_weight * log_likelihood
            group_size = max(1, self._memory_budget // (BYTES_PER_ENTRY * len(first)))
            for start in range(0, self.num_candidates, group_size):
                group = slice(start, start + group_size)
                log_posterior = self._log_prior_first[mixture, group].index_select(1, first)
                log_posterior += self._log_prior_second[mixture, group].index_select(1, second)
                log_posterior += weighted
                yield mixture, group, log_posterior

    def _choose(self, choose: Callable[[Tensor, int, slice], Tensor], fill_up_to: int = 0) -> Drawn:
        """Collect, for every mixture and candidate, the pairs at the positions that `choose` returns."""
        chosen = [[] for _ in self._pairs]
        for mixture, group, log_posterior in self._groups():
            first, second, _ = self._pairs[mixture]
            position = choose(log_posterior, mixture, group)
            drawn = (first[position], second[position], log_posterior.gather(1, position))
            missing = fill_up_to - position.shape[1]
            if missing > 0:  # fewer pairs than asked for
                fillers = (0, 0, -torch.inf)
                drawn = (torch.nn.functional.pad(x, (0, missing), value=v) for x, v in zip(drawn, fillers, strict=True))
            chosen[mixture].append(Drawn(*drawn))
        per_mixture = [[torch.cat(parts) for parts in zip(*groups, strict=True)] for groups in chosen]
        return Drawn(*(torch.stack(parts) for parts in zip(*per_mixture, strict=True)))

    def _reduce(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        result = self._log_prior_first.new_empty(self.num_mixtures, self.num_candidates)
        for mixture, group, log_posterior in self._groups():
            result[mixture, group] = reduce(log_posterior)
        return result
