"""Training losses of codecs and scores of separations, for images and for audio."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr

from lass.data.signals import HasSampleRate
from lass.metrics.bss_eval import LIMIT_DB
from lass.metrics.improvement import si_sdr_improvement
from lass.metrics.peak_snr import psnr
from lass.metrics.sdr import median_sdr
from lass.metrics.spectral import spectral_distance

Direction = Literal["min", "max"]


@runtime_checkable
class Scoring(Protocol):
    """Protocol of the losses and scores of one kind of signal.

    Signals are (batch, channels, *space); estimates and sources of mixtures are (batch, sources, channels, *space).
    """

    #: Reconstruction scores and their direction of improvement, the primary score first. {} in a name is replaced by
    #: the kind of signal, such as "_sources".
    reconstruction_goals: ClassVar[dict[str, Direction]]
    #: Names of separation scores, in dB, higher is better; the primary score first.
    separation_scores: ClassVar[tuple[str, ...]]
    #: Whether separation scores are NaN for mixtures with silent sources. If true, means skip NaN, and its number is
    #: reported; if false, NaN indicates an error and propagates.
    may_be_undefined: ClassVar[bool]

    def losses(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """Terms of a codec's reconstruction loss, by name; the loss is their sum."""
        ...

    def score_reconstruction(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """Scores of a reconstruction, (batch,) for each key of `reconstruction_goals`."""
        ...

    def score_separation(self, estimates: Tensor, sources: Tensor, mixtures: Tensor | None = None) -> dict[str, Tensor]:
        """Scores of estimates, (batch, sources) for each of `separation_scores`, finite; may be NaN.

        Args:
            estimates, sources: Signals, (batch, sources, channels, *space).
            mixtures: Mixtures of the sources, (batch, channels, *space), with which scores of improvement compare the
                estimates; None for the means of the sources.
        """
        ...


class ImageScoring:
    """Losses and scores of images in [0, 1]: mean squared error and PSNR."""

    reconstruction_goals: ClassVar[dict[str, Direction]] = {"psnr{}_db": "max"}
    separation_scores: ClassVar[tuple[str, ...]] = ("psnr_db",)
    may_be_undefined: ClassVar[bool] = False

    def losses(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """See `Scoring`."""
        return {"mse": F.mse_loss(reconstruction, signals)}

    def score_reconstruction(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """See `Scoring`."""
        return {"psnr{}_db": psnr(reconstruction, signals)}

    def score_separation(self, estimates: Tensor, sources: Tensor, mixtures: Tensor | None = None) -> dict[str, Tensor]:
        """See `Scoring`; within ±`LIMIT_DB`."""
        scores = psnr(estimates.flatten(0, 1), sources.flatten(0, 1)).view(sources.shape[:2])
        return {"psnr_db": scores.clamp(-LIMIT_DB, LIMIT_DB)}


class AudioScoring:
    """Losses and scores of mono audio in [-1, 1]: waveform and spectral losses, SDR, SI-SDR and its improvement.

    Args:
        sample_rate: Sample rate in Hz.
    """

    reconstruction_goals: ClassVar[dict[str, Direction]] = {"si_sdr{}_db": "max", "spectral_distance{}": "min"}
    separation_scores: ClassVar[tuple[str, ...]] = ("sdr_db", "si_sdr_db", "si_sdri_db")
    may_be_undefined: ClassVar[bool] = True  # without a frame in which all sources sound, or two of them for SI-SDRi
    waveform_weight = 10.0  # balances audio at a tenth of full scale with a spectral distance of about 1

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def losses(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """Weighted root mean squared error of the waveform ("waveform"), and the spectral distance ("spectral")."""
        error = F.mse_loss(reconstruction, signals).clamp(min=1e-10).sqrt()  # the gradient of a root is infinite at 0
        spectral = spectral_distance(reconstruction, signals).mean()
        return {"waveform": self.waveform_weight * error, "spectral": spectral}

    def score_reconstruction(self, reconstruction: Tensor, signals: Tensor) -> dict[str, Tensor]:
        """See `Scoring`."""
        distance = spectral_distance(reconstruction, signals)
        return {"si_sdr{}_db": si_sdr(reconstruction, signals)[:, 0], "spectral_distance{}": distance}

    def score_separation(self, estimates: Tensor, sources: Tensor, mixtures: Tensor | None = None) -> dict[str, Tensor]:
        """See `Scoring`.

        SDR: `median_sdr`. SI-SDR: within ±`LIMIT_DB`, -`LIMIT_DB` for a silent estimate, NaN if any source is silent.
        SI-SDRi: `si_sdr_improvement` over the mixture times the number of sources. This is the sum of the sources if
        the mixture is their mean. The mixture itself has 0 dB for every source that sounds.
        """
        estimates, sources = estimates[:, :, 0], sources[:, :, 0]
        sums = sources.sum(1) if mixtures is None else sources.shape[1] * mixtures[:, 0]
        silent_estimate, silent_source = (~signals.any(2) for signals in (estimates, sources))
        scale_invariant = si_sdr(estimates, sources).clamp(-LIMIT_DB, LIMIT_DB)
        scale_invariant = scale_invariant.masked_fill(silent_estimate, -LIMIT_DB)
        return {
            "sdr_db": median_sdr(estimates, sources, self.sample_rate),
            "si_sdr_db": scale_invariant.masked_fill(silent_source.any(1, keepdim=True), torch.nan),
            "si_sdri_db": si_sdr_improvement(estimates, sources, sums, self.sample_rate),
        }


def pairwise_scores(scoring: Scoring, estimates: Tensor, sources: Tensor) -> Tensor:
    """Primary separation score of each estimate for each source, (batch, estimates, sources).

    Args:
        scoring: Scoring whose first separation score is computed.
        estimates, sources: Signals, (batch, sources, channels, *space).
    """
    deciding, num = scoring.separation_scores[0], sources.shape[1]
    shifted = [scoring.score_separation(estimates.roll(-shift, 1), sources)[deciding] for shift in range(num)]
    # Entry [shift][:, source] is the score of estimate (source + shift) modulo num.
    scores = torch.stack(shifted, 1)
    estimate, source = torch.meshgrid(torch.arange(num), torch.arange(num), indexing="ij")
    return scores[:, (estimate - source) % num, source]


def scoring_of(part: object) -> Scoring:
    """Scoring for signals of a codec or data module: `AudioScoring` if it has a `sample_rate`, else `ImageScoring`."""
    return AudioScoring(part.sample_rate) if isinstance(part, HasSampleRate) else ImageScoring()
