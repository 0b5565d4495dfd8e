"""Base of the posteriors whose most probable tuples are found by a search."""

# M mixtures, C candidates before the step, N after it, S sources

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.samplers.drawing import gather_rows, invert_log_weights
from lass.samplers.protocol import Drawn
from lass.separation.batched_priors import LogPrior

NUCLEUS = 256  # number of most probable tuples to which the nucleus is limited


class SearchedPosterior(ABC):
    """Nucleus and draws from it, among the 256 most probable tuples that `best` finds.

    Args:
        log_priors: log p(next code | past) of each source.
        log_weights: Log importance weights of the candidates from the sampler; None for equal weights.
    """

    def __init__(self, log_priors: Sequence[LogPrior], log_weights: Float[Tensor, "M C"] | None) -> None:
        self.num_mixtures, self.num_candidates = log_priors[0].row_of.shape
        if log_weights is None:
            log_weights = log_priors[0].rows.new_zeros(self.num_mixtures, self.num_candidates)
        self.log_weights = log_weights
        self._best: Drawn | None = None

    @abstractmethod
    def best(self, k: int, canonical: bool = False) -> Drawn:
        """See `Posterior`."""

    def nucleus(self, p: float, temperature: float = 1.0) -> Float[Tensor, "M C"]:
        """See `Posterior`; normalised over the 256 best tuples."""
        log_posterior = self._most_probable().log_posterior
        mass = (log_posterior / temperature).softmax(-1).cumsum(-1)
        num_kept = (mass < p).sum(-1).clamp(max=mass.shape[-1] - 1)
        return log_posterior.gather(-1, num_kept[..., None])[..., 0]

    def _most_probable(self) -> Drawn:
        if self._best is None:
            self._best = self.best(NUCLEUS)
        return self._best

    def draw_among_best(
        self,
        parents: Int[Tensor, "M N"],
        uniforms: Float[Tensor, "M N"],
        temperature: float,
        at_least: Float[Tensor, "M C"],
    ) -> Drawn:
        """Draw among the most probable tuples whose log posterior is at least `at_least`."""
        best, mixture = self._most_probable(), torch.arange(self.num_mixtures, device=parents.device)[:, None]
        log_posterior = best.log_posterior[mixture, parents]
        too_low = log_posterior < at_least.gather(1, parents)[..., None]
        log_weights = (log_posterior / temperature).masked_fill(too_low, -torch.inf)
        chosen = invert_log_weights(log_weights, uniforms[..., None])
        codes = gather_rows(best.codes[mixture, parents], chosen)[..., 0, :]
        return Drawn(codes, log_posterior.gather(-1, chosen)[..., 0])
