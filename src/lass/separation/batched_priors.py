"""The priors of all sources, walked through together; what has the same past is computed once."""

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
    """log p(next code | past) of one source: a row per distinct past, and which row is whose."""

    rows: Tensor  # (rows, K) float
    row_of: Tensor  # (M, C) long


class BatchedPriors:
    """Runs the prior of every source for M mixtures × C candidates; rows are float32 whatever a prior returns.

    Sources that share a prior share its passes. Sequences with the same prior, condition and past share a row of them:
    candidates that have the first source in common need it computed once, whatever their second source is.

    Args:
        priors: one per source.
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
        """log p(first code | past) of each source, for one candidate per mixture; there will be `num_candidates`."""
        log_priors = self._by_source(prior.start(num_mixtures, num_candidates, device) for prior in self._shared)
        only_candidate = torch.zeros(num_mixtures, 1, dtype=torch.long, device=device)
        for codes in past[:, None].unbind(-1):
            log_priors = self.step(only_candidate, codes)
        return log_priors

    def step(self, parents: Int[Tensor, "M N"], codes: Int[Tensor, "M N S"]) -> list[LogPrior]:
        """Candidate n of a mixture continues its candidate `parents[n]` with `codes[n]`: each source's next code."""
        return self._by_source(prior.step(parents, codes) for prior in self._shared)

    def _by_source(self, log_priors) -> list[LogPrior]:
        by_source: dict[int, LogPrior] = {}
        for shared, (rows, row_of) in zip(self._shared, log_priors, strict=True):
            for source, own in zip(shared.sources, row_of, strict=True):
                by_source[source] = LogPrior(rows, own)
        return [by_source[source] for source in range(self._num_sources)]


class _PriorBatch:
    """One prior and the sources that share it."""

    def __init__(self, prior: Prior, sources: list[int], conditions: Tensor | None) -> None:
        self.prior, self.sources = prior, sources
        self.conditions = None if conditions is None else conditions[:, sources].T  # (G, M)
        self._state: Any = None
        self._row_of: Tensor  # (G, M, C)

    def start(self, num_mixtures: int, num_candidates: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows of log p(first code), one per condition, and (G, M, 1), which row is whose."""
        shape = (len(self.sources), num_mixtures, 1)
        if self.conditions is None:
            distinct, self._row_of = torch.zeros(1, device=device), torch.zeros(shape, dtype=torch.long, device=device)
        else:
            distinct, row_of = self.conditions.unique(return_inverse=True)
            self._row_of = row_of.view(shape)
        # Start as many sequences as there will be, so that a cache has room for them; go on with the distinct ones.
        rows = torch.arange(len(distinct), device=device)
        most = rows.repeat(-(-num_candidates * math.prod(shape) // len(rows)))
        state = self.prior.start(len(most), None if self.conditions is None else distinct[most])
        self._state = self.prior.select(state, rows)
        return self._rows(None, len(rows)), self._row_of

    def step(self, parents: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of log p(next code | past), and (G, M, N), which row is whose."""
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
    """Where to put new rows, given the (ascending) old rows they continue, so that as many as possible need not move.

    The first child of an old row takes its place; the others fill the places of rows that died.
    """
    num_rows = len(parents)
    first_child = torch.ones_like(parents, dtype=torch.bool)
    torch.ne(parents[1:], parents[:-1], out=first_child[1:])
    stays = first_child & (parents < num_rows)
    free = torch.ones_like(stays).index_fill_(0, parents[stays], False)
    return parents.masked_scatter(~stays, free.nonzero()[:, 0])
