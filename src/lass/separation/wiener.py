"""Refinement of audio estimates by time-frequency masks on the mixture (generalised Wiener filter)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lass.artifacts import register
from lass.codecs import Codec, PowerCodec
from lass.errors import LassError, check_number

SILENCE = 1e-8  # added to the power of every bin, so that a bin in which all sources are silent is shared equally


@register
@dataclass(frozen=True)
class WienerFilter:
    """Refine audio by masking the mixture's spectrogram in proportion to the power of the decoded sources.

    With Vₛ = |STFT(wₛ · decoded source s)|^exponent for the mixing weight wₛ, estimate s is
    ISTFT(STFT(mixture) / wₛ · Vₛ / Σₜ Vₜ). The phases are those of the mixture, and the estimates mix into the mixture.
    Errors of the codec therefore affect the estimates only through the masks. A codec that decodes powers itself
    (`PowerCodec`) gives |STFT(decoded source s)|² directly; the window is then that of the codec.

    Args:
        window: Length of the Hann window in samples, a multiple of 4; the hop is window / 4.
        exponent: Exponent of the magnitudes in the masks; 2 gives powers, as in Wiener's filter.

    Raises:
        LassError: if the window is not a multiple of 4 or the exponent not above 0.

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
        """Number of samples to each side of an output sample on which it depends; see `Refinement`."""
        return self.window

    @property
    def step(self) -> int:
        """Hop of the STFT in samples; excerpts must start at multiples of it, see `Refinement`."""
        return self.window // 4

    @torch.no_grad()
    def refine(self, latents: Tensor, mixtures: Tensor, codec: Codec, weights: Sequence[float] | None = None) -> Tensor:
        """See `Refinement`; for signals of shape (channels, samples)."""
        if not isinstance(codec, PowerCodec):
            decoded = codec.decode_latents(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
            return self.mask(decoded, mixtures, weights)
        if codec.window != self.window:
            raise LassError(
                f"The codec gives powers of frames of {codec.window} samples: set the window of WienerFilter to that, "
                f"not to {self.window}."
            )
        power = torch.nn.functional.pad(codec.power(latents.flatten(0, 1)), (0, 1), mode="replicate")
        power = power[..., : mixtures.shape[-1] // self.step + 1]
        return self._masked(power.sqrt().unflatten(0, latents.shape[:2])[:, :, None], mixtures, weights)

    @torch.no_grad()
    def mask(self, estimates: Tensor, mixtures: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """Mask the mixtures in proportion to the power of rough estimates.

        Args:
            estimates: (M, sources, channels, samples).
            mixtures: (M, channels, samples).
            weights: Weight of each source in the mixtures; None for their mean.

        Returns:
            New estimates, shaped like `estimates`, that mix into the mixtures.
        """
        return self._masked(self._spectra(estimates).abs(), mixtures, weights)

    def _masked(self, magnitudes: Tensor, mixtures: Tensor, weights: Sequence[float] | None) -> Tensor:
        """Mask the mixtures, given magnitudes (M, sources, channels, frequencies, frames)."""
        num_sources = magnitudes.shape[1]
        factors = magnitudes.new_tensor(weights or [1 / num_sources] * num_sources)[:, None, None, None]
        power = (factors * magnitudes).pow(self.exponent) + SILENCE
        spectra = power / power.sum(1, keepdim=True) * self._spectra(mixtures)[:, None] / factors
        return self._signals(spectra, mixtures.shape[-1])

    def _spectra(self, signals: Tensor) -> Tensor:
        """STFT: (..., samples) to (..., frequencies, frames)."""
        spectra = torch.stft(
            signals.flatten(0, -2),
            self.window,
            self.step,
            window=torch.hann_window(self.window, device=signals.device),
            pad_mode="constant",  # reflection needs more than window / 2 samples
            return_complex=True,
        )
        return spectra.unflatten(0, signals.shape[:-1])

    def _signals(self, spectra: Tensor, length: int) -> Tensor:
        window = torch.hann_window(self.window, device=spectra.device)
        signals = torch.istft(spectra.flatten(0, -3), self.window, self.step, window=window, length=length)
        return signals.unflatten(0, spectra.shape[:-2])
