"""HPSS: harmonic and percussive sounds by median filters of the spectrogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lass.errors import check_number
from lass.methods.masking import Magnitudes, SpectralMasking
from lass.optional import optional_package


@dataclass
class HPSS(SpectralMasking):
    """Separate percussive from harmonic sounds by the direction of their ridges in the spectrogram.

    Percussive sounds are ridges along frequency, harmonic ones along time. P and H are the medians of the magnitudes
    over `percussive_kernel` frequencies and over `harmonic_kernel` frames; the percussive mask is Pᵖ / (Pᵖ + Hᵖ) with
    the exponent p. By default the percussive component is the first source, drums, and the harmonic one the second,
    bass.

    Args:
        harmonic_kernel: Length of the median filter along time, in frames; odd.
        percussive_kernel: Length of the median filter along frequency, in bins; odd.
        exponent: Exponent p of the soft masks; 2 gives Wiener's filter.

    Source: FitzGerald 2010, "Harmonic/percussive separation using median filtering" (DAFx-10), Eq. 3 to 8, as
    implemented by `librosa.decompose.hpss`.
    """

    components: ClassVar[tuple[str, str]] = ("percussive", "harmonic")

    harmonic_kernel: int = 31
    percussive_kernel: int = 31
    exponent: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("harmonic_kernel", "percussive_kernel"):
            check_number(f"{name} of HPSS", getattr(self, name), at_least=1, at_most=10**4, whole=True)
        check_number("exponent of HPSS", self.exponent, above=0)

    def first_mask(self, magnitudes: Magnitudes) -> Magnitudes:
        """Mask of the percussive component."""
        decompose = optional_package("librosa.decompose", "librosa", "audio")
        kernels = (self.harmonic_kernel, self.percussive_kernel)
        return decompose.hpss(magnitudes, kernel_size=kernels, power=self.exponent, mask=True)[1]
