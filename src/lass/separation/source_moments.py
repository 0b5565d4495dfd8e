"""Moments of the sources' whitened vectors under their priors, and distances, for the posterior over tuples."""

# M mixtures, C candidates, S sources, K num_codes, d channels of the latents

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.likelihood import AdditiveLikelihood
from lass.separation.batched_priors import LogPrior

BYTES_PER_PROBABILITY = 8  # per distinct past and code: probability, and the copy that a matrix product may make


class SourceMoments(NamedTuple):
    """One source at this position, for all its distinct pasts."""

    log_prior: Tensor  # (rows, K)
    expected: Tensor  # (rows, 2 d + 1): mean and variance of w u, and mean of w² c, under the prior
    vectors: Tensor  # (K, d), w u
    variances: Tensor  # (K,), w² c
    # Expansions of distances, so that those of all codes are one matrix product:
    distances: Tensor  # (K, d + 2), w u, 1 and |w u|²
    moments: Tensor  # (K, 2 d + 1), w u, its squares and 1


class CandidateMoments:
    """Some candidates: what each source's prior gives for them, gathered when it is needed first.

    Args:
        sources: The sources.
        rows: Row of each candidate in the tensors of each source.
    """

    def __init__(self, sources: Sequence[SourceMoments], rows: Int[Tensor, "n S"]) -> None:
        self._sources, self._rows = sources, rows
        self._log_priors: dict[int, Tensor] = {}
        self._expected: dict[int, Tensor] = {}

    def log_prior(self, s: int) -> Float[Tensor, "n K"]:
        """Log prior of source s."""
        if s not in self._log_priors:
            self._log_priors[s] = self._sources[s].log_prior.index_select(0, self._rows[:, s])
        return self._log_priors[s]

    def expected(self, s: int) -> Float[Tensor, "n moments"]:
        """Moments of source s, see `SourceMoments.expected`."""
        if s not in self._expected:
            self._expected[s] = self._sources[s].expected.index_select(0, self._rows[:, s])
        return self._expected[s]


def source_moments(
    log_priors: Sequence[LogPrior], likelihood: AdditiveLikelihood, mixing_weights: Sequence[float], memory_budget: int
) -> list[SourceMoments]:
    """Moments of every source under its prior; sources with the same rows and weight share them."""
    known: dict[tuple[int, float], SourceMoments] = {}
    size = max(1, memory_budget // (BYTES_PER_PROBABILITY * likelihood.num_codes))
    for (rows, _), weight in zip(log_priors, mixing_weights, strict=True):
        if (id(rows), weight) not in known:
            vectors, variances = weight * likelihood.vectors, weight**2 * likelihood.variances
            moments = _with_ones(torch.cat([vectors, vectors.square()], 1))
            distances = torch.cat([_with_ones(vectors), vectors.square().sum(1, keepdim=True)], 1)
            statistics = torch.cat([moments[:, :-1], variances[:, None]], 1)
            expected = torch.cat([part.exp() @ statistics for part in rows.split(size)])
            mean, square, _ = expected.split([vectors.shape[1], vectors.shape[1], 1], 1)
            square.sub_(mean.square()).clamp_(min=0)
            known[id(rows), weight] = SourceMoments(rows, expected, vectors, variances, distances, moments)
    return [known[id(rows), weight] for (rows, _), weight in zip(log_priors, mixing_weights, strict=True)]


def squared_distances(residual: Float[Tensor, "n dim"], source: SourceMoments) -> Float[Tensor, "n K"]:
    """|residual − w u[k]|² of every code."""
    norms = residual.square().sum(1, keepdim=True)
    return _with_ones(torch.cat([-2 * residual, norms], 1)) @ source.distances.T


def _with_ones(columns: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch columns_and_one"]:
    """Append a column of ones."""
    return torch.nn.functional.pad(columns, (0, 1), value=1.0)
