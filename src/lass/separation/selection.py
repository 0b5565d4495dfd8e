"""Selection of one candidate per mixture as the estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lass.artifacts import register
from lass.codecs import Codec
from lass.data.mixing import mix
from lass.errors import check_number
from lass.separation.algorithm import Candidates


@runtime_checkable
class Selection(Protocol):
    """Protocol of rules that select one candidate per mixture."""

    def select(
        self,
        candidates: Candidates,
        mixtures: Tensor,
        codec: Codec,
        grid: tuple[int, ...],
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        """Return the index of the selected candidate of each mixture, (M,).

        Args:
            candidates: Candidates of Algorithm 1.
            mixtures: (M, channels, *space), the mixtures that were separated.
            codec: Codec that decodes codes of shape (batch, *grid).
            grid: Shape of the codes of one signal.
            weights: Mixing weights; None for the mean.
        """


@register
@dataclass(frozen=True)
class HighestScore:
    """Select the candidate with the highest log posterior; nothing is decoded."""

    def select(
        self,
        candidates: Candidates,
        mixtures: Tensor,
        codec: Codec,
        grid: tuple[int, ...],
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        """See `Selection`."""
        return candidates.scores.argmax(1)


@register
@dataclass(frozen=True)
class ClosestToMixture:
    """Select the candidate whose decoded sources mix into the signal nearest (L2) to the mixture.

    Args:
        batch_size: Number of signals decoded at once.

    Source: LASS (arXiv:2301.08562), caption of Table 3.
    """

    batch_size: int = 512

    def __post_init__(self) -> None:
        check_number("batch_size of ClosestToMixture", self.batch_size, at_least=1, whole=True)

    @torch.no_grad()
    def select(
        self,
        candidates: Candidates,
        mixtures: Tensor,
        codec: Codec,
        grid: tuple[int, ...],
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        """See `Selection`. Each distinct code sequence of a mixture is decoded once."""
        chosen = []
        for codes, scores, mixture in zip(candidates.codes, candidates.scores, mixtures, strict=True):
            sequences, which = codes.flatten(0, 1).unique(dim=0, return_inverse=True)
            batches = sequences.unflatten(1, grid).split(self.batch_size)
            signals = torch.cat([codec.decode(batch) for batch in batches])
            remixed = mix(signals[which.view(codes.shape[:2])], weights)  # (N, channels, *space)
            distance = (remixed - mixture).square().flatten(1).sum(1)
            chosen.append(distance.masked_fill(scores == -torch.inf, torch.inf).argmin())
        return torch.stack(chosen)
