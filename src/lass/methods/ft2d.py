"""FT2D: periodic patterns of the spectrogram as peaks of its two-dimensional Fourier transform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage

from lass.errors import check_number
from lass.methods.masking import BackgroundMasking, Magnitudes, share_of


@dataclass
class FT2D(BackgroundMasking):
    """Separate what repeats periodically, the background, from the rest of a mixture.

    A pattern that is periodic in time has its energy at few modulation frequencies, so it gives peaks in the 2D Fourier
    transform of the magnitudes (see `periodic_part`). Peaks and remainder are transformed back separately; their
    magnitudes B and R give the background's mask B / (B + R), or B > R if `binary`, as in the paper.

    Args:
        scales: Height of the neighbourhood of a peak along the transform of frequency, in bins; odd.
        rates: Width of the neighbourhood along the transform of time, in bins; odd.

    Source: Seetharaman, Pishdadian and Pardo 2017, "Music/voice separation using the 2D Fourier transform" (WASPAA),
    section 3.
    """

    scales: int = 1
    rates: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scales", "rates"):
            check_number(f"{name} of FT2D", getattr(self, name), at_least=1, at_most=10**4, whole=True)

    def background_share(self, magnitudes: Magnitudes) -> Magnitudes:
        """See `BackgroundMasking`."""
        background = periodic_part(magnitudes, (self.scales, self.rates))
        return share_of(np.abs(background), np.abs(magnitudes - background))


def periodic_part(magnitudes: Magnitudes, neighbourhood: tuple[int, int]) -> Magnitudes:
    """Part of a spectrogram that lies in the peaks of its 2D Fourier transform.

    A bin of the transform is a peak if its magnitude is the largest of its neighbourhood, and exceeds the smallest one
    by more than the standard deviation of all. The transform is periodic, so neighbourhoods wrap around, and the peaks
    of real input are symmetric.

    Args:
        magnitudes: (frequencies, frames).
        neighbourhood: Size of the neighbourhood of a bin in the transform of frequency and of time.

    Returns:
        Inverse transform of the peaks alone, (frequencies, frames); may be negative.
    """
    transform = scipy.fft.fft2(magnitudes.astype(np.float64))
    size = np.abs(transform)
    size = np.maximum(size, np.roll(size[::-1, ::-1], 1, (0, 1)))  # equal but for rounding, which would break ties
    highest, lowest = (
        each(size, neighbourhood, mode="wrap") for each in (scipy.ndimage.maximum_filter, scipy.ndimage.minimum_filter)
    )
    above_rounding = size.std() + 1e-9 * size.max()
    peaks = (size == highest) & (highest - lowest > above_rounding)
    return scipy.fft.ifft2(transform * peaks).real.astype(magnitudes.dtype)
