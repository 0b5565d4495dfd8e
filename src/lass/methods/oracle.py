"""Ideal ratio mask: the upper bound of masking, computed from the true sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lass.data.module import MAX_SOURCES
from lass.errors import LassError, check_number
from lass.methods.signals import checked_mixtures, fixed_order, weights_or_mean
from lass.separation.result import SeparationResult
from lass.separation.wiener import WienerFilter


@dataclass
class IdealRatioMask:
    """Estimates of audio from masks that are computed from the true sources: an upper bound for methods that mask.

    Estimate s is ISTFT(maskₛ · STFT(mixture)) / wₛ with maskₛ = |STFT(wₛ · source s)|^exponent, divided by the sum over
    sources plus 1e-8, so that silence is not amplified. This is no separation method, as it needs the sources.

    Args:
        num_sources: Number of sources of a mixture.
        window: Length of the Hann window in samples, a multiple of 4; the hop is window / 4.
        exponent: Exponent of the magnitudes; 2 gives the powers of Wiener's filter, 1 the ratio of magnitudes.
        mixing_weights: Weight of each source in the mixtures; null for their mean.

    Raises:
        LassError: if a setting is out of range.

    Source: Wang, Narayanan and Wang 2014, "On training targets for supervised speech separation" (IEEE/ACM TASLP 22),
    Eq. 4.
    """

    #: Whether `separate_batch` needs the true sources.
    needs_sources: ClassVar[bool] = True

    num_sources: int = 2
    window: int = 2048
    exponent: float = 2.0
    mixing_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_number("num_sources of IdealRatioMask", self.num_sources, at_least=2, at_most=MAX_SOURCES, whole=True)
        weights_or_mean(self.mixing_weights, self.num_sources)
        WienerFilter(self.window, self.exponent)  # checks its settings

    @torch.no_grad()
    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        sources: Tensor | None = None,
    ) -> SeparationResult:
        """Mask a batch of mixtures with masks of their sources.

        Args:
            mixtures: (M, channels, samples).
            conditions, seed, indices: Not used.
            sources: True sources, (M, num_sources, channels, samples).

        Returns:
            Result with estimates shaped like the sources.

        Raises:
            LassError: if the sources are missing or do not belong to mixtures of this shape.
        """
        signals = checked_mixtures(mixtures, 3, "(mixtures, channels, samples)")
        expected = (len(signals), self.num_sources, *signals.shape[1:])
        if sources is None or tuple(sources.shape) != expected:
            given = "none" if sources is None else str(tuple(sources.shape))
            raise LassError(f"The ideal ratio mask needs the true sources of shape {expected}, got {given}.")
        wiener = WienerFilter(self.window, self.exponent)
        return SeparationResult(wiener.mask(sources.to(signals), signals, self.mixing_weights))

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Groups of exchangeable sources, (num_mixtures, num_sources); each its own."""
        return fixed_order(num_mixtures, self.num_sources)
