"""Refinement of audio: the estimates say how each moment and frequency of the mixture is shared out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lass.artifacts import register
from lass.codecs import Codec
from lass.errors import LassError, check_number

SILENCE = 1e-8  # power below which a bin is shared equally


@register
@dataclass(frozen=True)
class WienerFilter:
    """The sources' spectrograms share out the mixture's, bin by bin, in proportion to their power.

    Phases are the mixture's and the estimates mix into the mixture exactly, whatever the codec loses: what it rebuilds
    well enough to tell where a source is loud is heard as it was recorded.

    Args:
        window: samples of the Hann window; it moves by a quarter of that.
        exponent: of the magnitudes that bins are shared by; 2 is power, Wiener's filter.

    Raises:
        LassError: for a window that is no multiple of 4, or an exponent that is not above 0.

    Source: our choice for audio. Liutkus and Badeau 2015, "Generalized Wiener filtering with fractional power
    spectrograms".
    """

    window: int = 2048
    exponent: float = 2.0

    def __post_init__(self) -> None:
        check_number("window of WienerFilter", self.window, at_least=4, at_most=2**20, whole=True)
        check_number("exponent of WienerFilter", self.exponent, above=0)
        if self.window % 4:
            raise LassError(f"window of WienerFilter must be a multiple of 4 samples, not {self.window}.")

    @property
    def reach(self) -> int:
        """Samples to each side that a sample of the result depends on."""
        return self.window

    @property
    def step(self) -> int:
        """Signals that are cut at multiples of this give the same result within the reach."""
        return self.window // 4

    @torch.no_grad()
    def refine(self, latents: Tensor, mixtures: Tensor, codec: Codec) -> Tensor:
        """See Refinement; for signals of shape (channels, samples)."""
        estimates = codec.decode_latents(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        power = self._spectra(estimates).abs().pow(self.exponent) + SILENCE
        spectra = power / power.sum(1, keepdim=True) * self._spectra(mixtures * estimates.shape[1])[:, None]
        return self._signals(spectra, estimates.shape[-1])

    def _spectra(self, signals: Tensor) -> Tensor:
        """(..., samples) to (..., frequencies, frames)."""
        spectra = torch.stft(
            signals.flatten(0, -2),
            self.window,
            self.step,
            window=torch.hann_window(self.window, device=signals.device),
            pad_mode="constant",  # for signals that are shorter than the window
            return_complex=True,
        )
        return spectra.unflatten(0, signals.shape[:-1])

    def _signals(self, spectra: Tensor, length: int) -> Tensor:
        window = torch.hann_window(self.window, device=spectra.device)
        signals = torch.istft(spectra.flatten(0, -3), self.window, self.step, window=window, length=length)
        return signals.unflatten(0, spectra.shape[:-2])
