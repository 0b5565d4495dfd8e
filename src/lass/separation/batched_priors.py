"""Batched evaluation of the priors of all sources; sequences with equal pasts are evaluated once."""

# G sources that share a prior, M mixtures, C candidates before a step, N after it, K num_codes

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lass.errors import LassError
from lass.priors import Prior


class LogPrior(NamedTuple):
    """log p(next code | past) of one source, stored once per distinct past."""

    rows: Tensor  # (rows, K) float, one row per distinct past
    row_of: Tensor  # (M, C) long, index into `rows` of each candidate


class BatchedPriors:
    """Evaluate the prior of every source for M mixtures × C candidates; log probabilities are float32 for every prior.

    Sources with the same prior object are evaluated in one batch. Sequences of that prior with the same condition and
    past share one row of the batch: candidates that agree in the first source, but not in the second, need one
    evaluation for the first source.

    Args:
        priors: One prior per source.
        conditions: (M, S) classes, or None.
    """

    def __init__(self, priors: Sequence[Prior], conditions: Int[Tensor, "M S"] | None) -> None:
        distinct = {id(prior): prior for prior in priors}.values()
        self._shared = [
            _PriorBatch(prior, [source for source, other in enumerate(priors) if other is prior], conditions)
            for prior in distinct
        ]
        self._num_sources = len(priors)

    def start(
        self, num_mixtures: int, num_candidates: int, device: torch.device, past: Int[Tensor, "M S P"]
    ) -> list[LogPrior]:
        """Return log p(first code | past) of each source, for one candidate per mixture.

        Args:
            num_mixtures: M.
            num_candidates: Number of candidates per mixture at later positions; caches are allocated for as many.
            device: Device of the results.
            past: Codes of the sources before the first position; P may be 0.
        """
        log_priors = self._by_source(prior.start(num_mixtures, num_candidates, device) for prior in self._shared)
        only_candidate = torch.zeros(num_mixtures, 1, dtype=torch.long, device=device)
        for codes in past[:, None].unbind(-1):
            log_priors = self.step(only_candidate, codes)
        return log_priors

    def step(self, parents: Int[Tensor, "M N"], codes: Int[Tensor, "M N S"]) -> list[LogPrior]:
        """Return log p(next code | past) of each source, after appending the chosen codes.

        Args:
            parents: Candidate that each new candidate extends.
            codes: Codes appended to each new candidate, one per source.
        """
        return self._by_source(prior.step(parents, codes) for prior in self._shared)

    def _by_source(self, log_priors) -> list[LogPrior]:
        by_source: dict[int, LogPrior] = {}
        for shared, (rows, row_of) in zip(self._shared, log_priors, strict=True):
            for source, own in zip(shared.sources, row_of, strict=True):
                by_source[source] = LogPrior(rows, own)
        return [by_source[source] for source in range(self._num_sources)]


class _PriorBatch:
    """One prior and the G sources that use it."""

    def __init__(self, prior: Prior, sources: list[int], conditions: Tensor | None) -> None:
        self.prior, self.sources = prior, sources
        self.conditions = None if conditions is None else conditions[:, sources].T  # (G, M)
        self._state: Any = None
        self._row_of: Tensor  # (G, M, C)

    def start(self, num_mixtures: int, num_candidates: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return log p(first code), one row per distinct condition, and the row index of each source and mixture, (G,
        M, 1).
        """
        shape = (len(self.sources), num_mixtures, 1)
        if self.conditions is None:
            distinct, self._row_of = torch.zeros(1, device=device), torch.zeros(shape, dtype=torch.long, device=device)
        else:
            distinct, row_of = self.conditions.unique(return_inverse=True)
            self._row_of = row_of.view(shape)
        # Start with the largest number of sequences, so that the cache is allocated once; then keep the distinct ones.
        rows = torch.arange(len(distinct), device=device)
        most = rows.repeat(-(-num_candidates * math.prod(shape) // len(rows)))
        state = self.prior.start(len(most), None if self.conditions is None else distinct[most])
        self._state = self.prior.select(state, rows)
        return self._rows(None, len(rows)), self._row_of

    def step(self, parents: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(next code | past), one row per distinct past, and the row index of each candidate, (G, M, N)."""
        row_of = self._row_of.gather(2, parents.expand(len(self.sources), -1, -1))
        continued = row_of * self.prior.num_codes + codes[..., self.sources].movedim(-1, 0)
        continued, row_of = continued.unique(return_inverse=True)
        rows = _stay_in_place(continued // self.prior.num_codes)
        continued = torch.empty_like(continued).index_copy_(0, rows, continued)
        self._row_of = rows[row_of]
        self._state = self.prior.select(self._state, continued // self.prior.num_codes)
        return self._rows(continued % self.prior.num_codes, len(continued)), self._row_of

    def _rows(self, codes: Tensor | None, num_rows: int) -> Tensor:
        rows = self.prior.step(self._state, codes)
        if rows.shape != (num_rows, self.prior.num_codes):
            raise LassError(
                f"{type(self.prior).__name__}.step must return (sequences, num_codes) = ({num_rows}, "
                f"{self.prior.num_codes}), but returned {tuple(rows.shape)}."
            )
        if rows.isnan().any():
            raise LassError(f"{type(self.prior).__name__}.step returned NaN: expected log probabilities.")
        return rows.float()


def _stay_in_place(parents: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Choose positions for the new rows such that as few cache rows as possible have to be copied.

    The first child of an old row takes its position; the other children fill the positions of rows without children.

    Args:
        parents: Old row that each new row continues, ascending.

    Returns:
        Position of each new row.
    """
    num_rows = len(parents)
    first_child = torch.ones_like(parents, dtype=torch.bool)
    torch.ne(parents[1:], parents[:-1], out=first_child[1:])
    stays = first_child & (parents < num_rows)
    free = torch.ones_like(stays).index_fill_(0, parents[stays], False)
    return parents.masked_scatter(~stays, free.nonzero()[:, 0])
