"""By what codecs and separations are trained and scored: for images and for audio."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr

from lass.metrics.psnr import psnr
from lass.metrics.sdr import median_sdr
from lass.metrics.spectral import spectral_distance

Direction = Literal["min", "max"]


@runtime_checkable
class Scoring(Protocol):
    """Signals here are (batch, channels, *space); those of a mixture's sources have another axis after the first."""

    #: Scores of a reconstruction and their better direction, the deciding one first; {} is where "_sources" goes.
    reconstruction_goals: ClassVar[dict[str, Direction]]
    #: Scores of estimates, all in dB and better when higher, the deciding one first.
    separation_scores: ClassVar[tuple[str, ...]]
    #: Whether these can be NaN, and such mixtures are to be left out of means; elsewhere NaN is a mistake to be seen.
    may_be_undefined: ClassVar[bool]

    def losses(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """Terms of a codec's loss, by name; it is their sum."""

    def score_reconstruction(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """(batch,) under each key of `reconstruction_goals`."""

    def score_separation(self, estimates: Tensor, sources: Tensor) -> dict[str, Tensor]:
        """(batch, sources) under each name in `separation_scores`; NaN where a score is not defined."""


class ImageScoring:
    """Images in [0, 1]: squared error and PSNR."""

    reconstruction_goals: ClassVar[dict[str, Direction]] = {"psnr{}_db": "max"}
    separation_scores: ClassVar[tuple[str, ...]] = ("psnr_db",)
    may_be_undefined = False

    def losses(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """See Scoring."""
        return {"mse": F.mse_loss(reconstruction, signals)}

    def score_reconstruction(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """See Scoring."""
        return {"psnr{}_db": psnr(reconstruction, signals)}

    def score_separation(self, estimates: Tensor, sources: Tensor) -> dict[str, Tensor]:
        """See Scoring."""
        return {"psnr_db": psnr(estimates.flatten(0, 1), sources.flatten(0, 1)).view(sources.shape[:2])}


class AudioScoring:
    """Mono audio in [-1, 1]: waveform and spectrograms, SDR and SI-SDR.

    Args:
        sample_rate: in Hz.
    """

    reconstruction_goals: ClassVar[dict[str, Direction]] = {"si_sdr{}_db": "max", "spectral_distance{}": "min"}
    separation_scores: ClassVar[tuple[str, ...]] = ("sdr_db", "si_sdr_db")
    may_be_undefined = True  # SDR needs sound in every source
    waveform_weight = 10.0  # audio is at a tenth of full scale, where the distance of spectrograms is about 1

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def losses(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """Root mean squared error of the waveform, and the distance of the spectrograms."""
        error = F.mse_loss(reconstruction, signals).clamp(min=1e-10).sqrt()  # a root has no gradient at 0
        spectral = spectral_distance(reconstruction, signals).mean()
        return {"waveform": self.waveform_weight * error, "spectral": spectral}

    def score_reconstruction(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """See Scoring."""
        distance = spectral_distance(reconstruction, signals)
        return {"si_sdr{}_db": si_sdr(reconstruction, signals)[:, 0], "spectral_distance{}": distance}

    def score_separation(self, estimates: Tensor, sources: Tensor) -> dict[str, Tensor]:
        """See Scoring; SDR is museval's."""
        estimates, sources = estimates[:, :, 0], sources[:, :, 0]
        return {"sdr_db": median_sdr(estimates, sources, self.sample_rate), "si_sdr_db": si_sdr(estimates, sources)}


def scoring_of(codec: object) -> Scoring:
    """That of audio for codecs with a `sample_rate`, else that of images."""
    return AudioScoring(codec.sample_rate) if hasattr(codec, "sample_rate") else ImageScoring()
