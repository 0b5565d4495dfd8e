"""By what codecs and separations are trained and scored: for images and for audio."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr

from lass.data.signals import HasSampleRate
from lass.metrics.psnr import psnr
from lass.metrics.sdr import LIMIT_DB, median_sdr
from lass.metrics.spectral import spectral_distance

Direction = Literal["min", "max"]


@runtime_checkable
class Scoring(Protocol):
    """Signals here are (batch, channels, *space); those of a mixture's sources have another axis after the first."""

    #: Scores of a reconstruction and their better direction, the deciding one first; {} is where "_sources" goes.
    reconstruction_goals: ClassVar[dict[str, Direction]]
    #: Scores of estimates, all in dB and better when higher, the deciding one first.
    separation_scores: ClassVar[tuple[str, ...]]
    #: Whether these are NaN for mixtures with a silent source, which means then leave out and count; elsewhere NaN is a
    #: mistake to be seen.
    may_be_undefined: ClassVar[bool]

    def losses(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """Terms of a codec's loss, by name; it is their sum."""
        ...

    def score_reconstruction(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """(batch,) under each key of `reconstruction_goals`."""
        ...

    def score_separation(self, estimates: Tensor, sources: Tensor) -> dict[str, Tensor]:
        """(batch, sources) under each name in `separation_scores`, within ±`LIMIT_DB`; NaN where it is undefined."""
        ...


class ImageScoring:
    """Images in [0, 1]: squared error and PSNR."""

    reconstruction_goals: ClassVar[dict[str, Direction]] = {"psnr{}_db": "max"}
    separation_scores: ClassVar[tuple[str, ...]] = ("psnr_db",)
    may_be_undefined: ClassVar[bool] = False

    def losses(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """See Scoring."""
        return {"mse": F.mse_loss(reconstruction, signals)}

    def score_reconstruction(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """See Scoring."""
        return {"psnr{}_db": psnr(reconstruction, signals)}

    def score_separation(self, estimates: Tensor, sources: Tensor) -> dict[str, Tensor]:
        """See Scoring."""
        scores = psnr(estimates.flatten(0, 1), sources.flatten(0, 1)).view(sources.shape[:2])
        return {"psnr_db": scores.clamp(-LIMIT_DB, LIMIT_DB)}


class AudioScoring:
    """Mono audio in [-1, 1]: waveform and spectrograms, SDR and SI-SDR.

    Args:
        sample_rate: in Hz.
    """

    reconstruction_goals: ClassVar[dict[str, Direction]] = {"si_sdr{}_db": "max", "spectral_distance{}": "min"}
    separation_scores: ClassVar[tuple[str, ...]] = ("sdr_db", "si_sdr_db")
    may_be_undefined: ClassVar[bool] = True  # both scores need sound in every source
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
        """See Scoring; SDR is museval's. A silent estimate has the lowest possible SI-SDR, a silent source none."""
        estimates, sources = estimates[:, :, 0], sources[:, :, 0]
        silent_estimate, silent_source = (~signals.any(2) for signals in (estimates, sources))
        scale_invariant = si_sdr(estimates, sources).clamp(-LIMIT_DB, LIMIT_DB)
        scale_invariant = scale_invariant.masked_fill(silent_estimate, -LIMIT_DB)
        return {
            "sdr_db": median_sdr(estimates, sources, self.sample_rate),
            "si_sdr_db": scale_invariant.masked_fill(silent_source.any(1, keepdim=True), torch.nan),
        }


def pairwise_scores(scoring: Scoring, estimates: Tensor, sources: Tensor) -> Tensor:
    """The deciding score of every estimate with every source, (batch, estimates, sources).

    Args:
        scoring: whose first separation score decides.
        estimates, sources: (batch, sources, channels, *space).
    """
    deciding, num = scoring.separation_scores[0], sources.shape[1]
    shifted = [scoring.score_separation(estimates.roll(-shift, 1), sources)[deciding] for shift in range(num)]
    # Entry [shift][:, source] is the score of estimate (source + shift) modulo num.
    scores = torch.stack(shifted, 1)
    estimate, source = torch.meshgrid(torch.arange(num), torch.arange(num), indexing="ij")
    return scores[:, (estimate - source) % num, source]


def scoring_of(codec: object) -> Scoring:
    """That of audio for codecs with a `sample_rate`, else that of images."""
    return AudioScoring(codec.sample_rate) if isinstance(codec, HasSampleRate) else ImageScoring()
