"""Hybrid Demucs: a U-Net on the spectrogram and one on the waveform, which are joined at their lowest resolution."""

from __future__ import annotations

from collections.abc import Sequence

from lass.artifacts import register
from lass.errors import LassError, check_number
from lass.methods.supervised import SupervisedSeparator, torchaudio_model

#: Levels of the U-Nets for each window: four-fold strides up to one frequency, and one level for both U-Nets.
DEPTHS = {1024: 5, 2048: 6, 4096: 6}
MAX_CHANNELS = 2**10


@register
class Demucs(SupervisedSeparator):
    """Hybrid Demucs (version 3) of torchaudio; see `SupervisedSeparator`.

    The network of the paper has 48 channels and a window of 4,096 samples at 44,100 Hz: 84 million parameters.

    Args:
        classes, sample_rate, num_samples, rescale, weights: See `SupervisedSeparator`. Without `rescale`, because the
            L1 loss determines the scale.
        channels: Channels of the first level, a multiple of 4; each further level has twice as many.
        window: Window of the Fourier transform in samples: 1024, 2048 or 4096. Its hop is a quarter of it.

    Raises:
        LassError: if a setting is out of range, or torchaudio is not installed.

    Source: Défossez 2021 (arXiv:2111.03600); Défossez et al. 2019 (arXiv:1911.13254) for Demucs, the row of Table 5
    of LASS (arXiv:2301.08562).
    """

    def __init__(
        self,
        classes: Sequence[str] = ("drums", "bass"),
        sample_rate: int = 22050,
        num_samples: int = 66150,
        rescale: bool = False,
        weights: Sequence[float] | None = None,
        channels: int = 8,
        window: int = 2048,
    ) -> None:
        super().__init__(classes, sample_rate, num_samples, rescale, weights, channels=channels, window=window)
        check_number("channels", channels, at_least=4, at_most=MAX_CHANNELS, whole=True)
        if channels % 4:
            raise LassError(f"channels must be a multiple of 4, not {channels}.")
        if window not in DEPTHS:
            raise LassError(f"window must be {', '.join(map(str, DEPTHS))} samples, not {window!r:.50}.")
        self.least_samples = window
        self.network = torchaudio_model("HDemucs")(
            self.classes, audio_channels=1, channels=channels, nfft=window, depth=DEPTHS[window]
        )
