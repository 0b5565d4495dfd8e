"""The average baseline: the mixture itself as the estimate of every source."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lass.errors import check_number
from lass.separation import SeparationResult


class Average:
    """Baseline that estimates every source by the mixture; it has the residual 0.

    Args:
        num_sources: Number S of sources in a mixture.

    Raises:
        LassError: if `num_sources` is not a positive integer.

    Source: Jayaram and Thickstun 2020 (arXiv:2002.07942), row "Average" of Table 2 of LASS (arXiv:2301.08562).
    """

    def __init__(self, num_sources: int = 2) -> None:
        check_number("num_sources", num_sources, at_least=1, whole=True)
        self.num_sources = num_sources

    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> SeparationResult:
        """Return mixtures, (M, channels, *space), as estimates, (M, S, channels, *space); see `SeparationMethod`."""
        return SeparationResult(mixtures[:, None].repeat_interleave(self.num_sources, 1))
