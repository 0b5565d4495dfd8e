"""Bases of the blind methods for audio: they mask the spectrogram of the mixture with two masks."""

# F frequencies, T frames

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lass.errors import LassError, check_flag, check_number
from lass.methods.signals import checked_mixtures, fixed_order, weights_or_mean
from lass.optional import optional_package
from lass.separation.result import SeparationResult

Magnitudes = Float[np.ndarray, "F T"]


@dataclass
class SpectralMasking:
    """Base class of methods that estimate two sources by masking the mixture's short-time Fourier transform (STFT).

    Estimate s is ISTFT(maskₛ · STFT(mixture)) / wₛ with the mixing weight wₛ, so it has the scale of source s and the
    phases of the mixture. The two masks have the sum 1, so the estimates mix into the mixture. Every channel of every
    mixture is processed alone. Nothing is random.

    A subclass names its two `components` and defines `first_mask`.

    Args:
        window: Length of the Hann window in samples, a multiple of 4; the hop is window / 4.
        order: Component that is taken as each source, a permutation of `components`; null for `components`.
        mixing_weights: Weight of each source in the mixtures; null for their mean, 1/2 each.

    Raises:
        LassError: if a setting is out of range.
    """

    #: Names of the two components; by default the first is the first source.
    components: ClassVar[tuple[str, str]]
    num_sources: ClassVar[int] = 2

    window: int = 2048
    order: Sequence[str] | None = None
    mixing_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_number(f"window of {type(self).__name__}", self.window, at_least=16, at_most=2**20, whole=True)
        if self.window % 4:
            raise LassError(f"window of {type(self).__name__} must be a multiple of 4 samples, not {self.window}.")
        if self.order is not None and (
            isinstance(self.order, str) or sorted(map(str, self.order)) != sorted(self.components)
        ):
            raise LassError(
                f"order of {type(self).__name__} must name {' and '.join(self.components)}, each once, not "
                f"{self.order!r:.100}."
            )
        weights_or_mean(self.mixing_weights, self.num_sources)

    def first_mask(self, magnitudes: Magnitudes) -> Magnitudes:
        """Mask of the first of `components`, in [0, 1].

        Args:
            magnitudes: Magnitudes of the mixture's STFT, (frequencies, frames); not all of them are 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must define first_mask()")

    @torch.no_grad()
    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> SeparationResult:
        """Separate a batch of mixtures.

        Args:
            mixtures: (M, channels, samples).
            conditions, seed, indices: Not used; see `SeparationMethod`.

        Returns:
            Result with estimates (M, 2, channels, samples), float32, on the device of the mixtures.

        Raises:
            LassError: if the mixtures are not finite floating-point audio, or librosa is not installed.
        """
        signals = checked_mixtures(mixtures, 3, "(mixtures, channels, samples)")
        channels = signals.flatten(0, 1).cpu().numpy()
        weights = np.array(weights_or_mean(self.mixing_weights, self.num_sources), np.float32)[:, None]
        parts = torch.from_numpy(np.stack([self._masked(channel) / weights for channel in channels]))
        estimates = parts.unflatten(0, signals.shape[:2]).movedim(2, 1)
        return SeparationResult(estimates.to(mixtures.device))

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Groups of exchangeable sources, (num_mixtures, 2); each its own, as `order` assigns the estimates."""
        return fixed_order(num_mixtures, self.num_sources)

    def _masked(self, signal: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "2 samples"]:
        """Masked mixture of each source: parts with the sum `signal`."""
        librosa = optional_package("librosa", "librosa", "audio")
        length = len(signal)
        if not signal.any():
            return np.zeros((2, length), np.float32)
        padded = np.pad(signal, (0, max(0, self.window - length)))
        spectrum = librosa.stft(padded, n_fft=self.window, hop_length=self.window // 4, pad_mode="constant")
        first = np.clip(self.first_mask(np.abs(spectrum)), 0, 1)
        masks = dict(zip(self.components, (first, 1 - first), strict=True))
        masked = np.stack([masks[name] * spectrum for name in self.order or self.components])
        parts = librosa.istft(masked, n_fft=self.window, hop_length=self.window // 4, length=len(padded))
        return parts[:, :length].astype(np.float32)


@dataclass
class BackgroundMasking(SpectralMasking):
    """Base class of methods that divide a mixture into a background with a regular structure and the rest.

    By default the foreground is the first source, drums, and the background the second, bass, an order that was chosen
    on validation mixtures; set `order` for other sources. The methods were published for voice and accompaniment, where
    frequencies below 100 Hz are always background; this rule is left out, because drums have energy there.

    A subclass defines `background_share`.

    Args:
        binary: Whether every bin belongs wholly to the part with the larger share.
    """

    components: ClassVar[tuple[str, str]] = ("foreground", "background")

    binary: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(f"binary of {type(self).__name__}", self.binary)

    def background_share(self, magnitudes: Magnitudes) -> Magnitudes:
        """Share of the background in each bin, in [0, 1]; argument as for `first_mask`."""
        raise NotImplementedError(f"{type(self).__name__} must define background_share()")

    def first_mask(self, magnitudes: Magnitudes) -> Magnitudes:
        """Mask of the foreground."""
        share = 1 - self.background_share(magnitudes)
        return (share > 0.5).astype(magnitudes.dtype) if self.binary else share


def share_of(part: Magnitudes, rest: Magnitudes) -> Magnitudes:
    """Non-negative `part` as a share of part + rest; 1/2 in bins where both are 0."""
    total = part + rest
    return np.divide(part, total, out=np.full_like(total, 0.5), where=total > 0)
