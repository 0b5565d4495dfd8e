"""The priors of all sources, walked through together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.errors import LassError
from lass.priors import Prior


class JointPrior:
    """Runs the prior of every source for M mixtures × C candidates; sources that share a prior share its passes.

    Args:
        priors: one per source.
        num_mixtures: M; every mixture starts with one empty candidate.
        conditions: (M, S) classes, or None.
    """

    def __init__(self, priors: Sequence[Prior], num_mixtures: int, conditions: Int[Tensor, "M S"] | None) -> None:
        self.num_mixtures, self.num_candidates, self.num_sources = num_mixtures, 1, len(priors)
        distinct = {id(prior): prior for prior in priors}
        self._groups: list[tuple[Prior, list[int]]] = [
            (prior, [source for source, other in enumerate(priors) if other is prior]) for prior in distinct.values()
        ]
        self._states: list[Any] = [
            prior.start(
                len(sources) * num_mixtures,
                None if conditions is None else conditions[:, sources].T.flatten(),
            )
            for prior, sources in self._groups
        ]

    def step(self, codes: Int[Tensor, "M C S"] | None) -> list[Float[Tensor, "M C K"]]:
        """Append the latest codes (none at the first position) and return each source's log p(next code | past)."""
        log_priors: list[Tensor | None] = [None] * self.num_sources
        for (prior, sources), state in zip(self._groups, self._states, strict=True):
            latest = None if codes is None else codes[..., sources].movedim(-1, 0).flatten()
            log_prior = prior.step(state, latest)
            shape = (len(sources), self.num_mixtures, self.num_candidates, prior.num_codes)
            if log_prior.shape != (math.prod(shape[:3]), prior.num_codes):
                raise LassError(
                    f"{type(prior).__name__}.step must return (sequences, num_codes) = ({math.prod(shape[:3])}, "
                    f"{prior.num_codes}), but returned {tuple(log_prior.shape)}."
                )
            for source, part in zip(sources, log_prior.view(shape), strict=True):
                log_priors[source] = part
        return log_priors

    def select(self, parents: Int[Tensor, "M N"]) -> None:
        """Candidate n of a mixture continues from its candidate `parents[n]`."""
        rows = torch.arange(self.num_mixtures, device=parents.device)[:, None] * self.num_candidates + parents
        sequences_per_source = self.num_mixtures * self.num_candidates
        for group, (prior, sources) in enumerate(self._groups):
            offsets = torch.arange(len(sources), device=parents.device)[:, None] * sequences_per_source
            self._states[group] = prior.select(self._states[group], (offsets + rows.flatten()).flatten())
        self.num_candidates = parents.shape[1]
