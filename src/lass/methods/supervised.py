"""Networks that are trained on mixtures and their sources: base class, and scale of the estimates."""

# M mixtures, S sources

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import Artifact, fingerprint, load_artifact
from lass.data.mixing import check_weights
from lass.data.signals import HasSampleRate
from lass.devices.precision import full_precision
from lass.errors import LassError, check_flag, check_sizes, distinct_names
from lass.methods.chunks import overlap_add
from lass.separation import SeparationResult

MAX_SAMPLES = 2**31  # of a chunk
#: Weight of the penalty on the squared gains in `rescaled`, relative to parts of unit energy. It bounds the gains of
#: estimates that are nearly equal, and shrinks those of independent estimates by 0.1 %.
RIDGE = 1e-3
SMALLEST_NORM = 1e-8  # norms below are those of silent signals


class SupervisedSeparator(Artifact):
    """Base class of networks that map a mono mixture to its sources, and that are trained on pairs of both.

    It is a separation method (`lass.methods.SeparationMethod`). Each output of the network has a class, so estimates
    are not exchangeable. A subclass creates its network in `self.network`; any module that maps (batch, 1, samples) to
    (batch, S, samples) or (batch, S, 1, samples).

    Args:
        classes: Names of the S classes, in the order of the sources in the data.
        sample_rate: Sample rate in Hz.
        num_samples: Length of the chunks that the network is trained on. Longer signals are separated in overlapping
            chunks of this length, see `overlap_add`.
        rescale: Whether the scale of the network's output is undetermined, as after a training with the SI-SDR. The
            scale of the estimates is then fitted to the mixture, see `rescaled`.
        weights: Mixing weight of each source; null for the mean, 1/S each.
        settings: Further arguments of the subclass's constructor, for `config`.

    Raises:
        LassError: if a setting is out of range, or if there is no weight for each source.
    """

    kind = "network"
    network: nn.Module
    least_samples = 1  # shortest signal that the network takes; shorter ones are padded with zeros

    def __init__(
        self,
        classes: Sequence[str],
        sample_rate: int,
        num_samples: int,
        rescale: bool,
        weights: Sequence[float] | None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if isinstance(classes, str) or len(classes) < 2:
            raise LassError(f"classes must be a list of two or more names, not {classes!r:.100}.")
        self.classes = distinct_names(classes, len(classes))
        check_sizes(MAX_SAMPLES, sample_rate=sample_rate, num_samples=num_samples)
        check_flag("rescale", rescale)
        if weights is not None:
            check_weights(weights, len(classes))
        self.num_sources, self.sample_rate, self.num_samples = len(classes), sample_rate, num_samples
        self.rescale, self.weights = rescale, None if weights is None else list(weights)
        self.config = {
            "classes": self.classes,
            "sample_rate": sample_rate,
            "num_samples": num_samples,
            "rescale": rescale,
            "weights": self.weights,
            **settings,
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SupervisedSeparator:
        """Load a trained network of any subclass from its folder; see `lass.artifacts.load_artifact`."""
        return cast(SupervisedSeparator, load_artifact(folder, cls.kind))

    def forward(
        self, mixtures: Float[Tensor, "batch 1 samples"]
    ) -> Float[Tensor, "batch {self.num_sources} 1 samples"]:
        """Output of the network, at an undetermined scale if `rescale` is set."""
        num_samples = mixtures.shape[2]
        padded = F.pad(mixtures, (0, max(0, self.least_samples - num_samples)))
        output = self.network(padded).view(len(mixtures), self.num_sources, 1, padded.shape[2])
        return output[..., :num_samples]

    def estimate(
        self, mixtures: Float[Tensor, "batch 1 samples"]
    ) -> Float[Tensor, "batch {self.num_sources} 1 samples"]:
        """Estimates of the sources of chunks, at the scale of the sources."""
        output = self(mixtures)
        if not self.rescale:
            return output
        return rescaled(output[:, :, 0].float(), mixtures[:, 0].float(), self._or_mean(self.weights))[:, :, None]

    @torch.no_grad()
    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> SeparationResult:
        """Separate a batch of mixtures; see `lass.methods.SeparationMethod`.

        Args:
            mixtures: (M, 1, samples) float32.
            conditions, seed, indices: Not used: each output has a class, and nothing is random.

        Returns:
            Result with estimates (M, S, 1, samples).

        Raises:
            LassError: if the mixtures are not mono signals.
        """
        if mixtures.ndim != 3 or mixtures.shape[1] != 1 or not mixtures.shape[2]:
            raise LassError(
                f"{type(self).__name__} separates mono signals: expected mixtures of shape (mixtures, 1, samples), got "
                f"{tuple(mixtures.shape)}."
            )
        with full_precision(mixtures.device):
            return SeparationResult(overlap_add(self.estimate, mixtures.float(), self.num_samples))

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Groups of exchangeable estimates, (num_mixtures, S) long: each estimate is a group, as it has a class."""
        return torch.arange(self.num_sources).expand(num_mixtures, -1)

    def check_data(self, data: object) -> None:
        """Raise LassError if a data module has another sample rate, other classes or other weights than the network."""
        if not isinstance(data, HasSampleRate):
            raise LassError(f"{type(self).__name__} separates audio, but {type(data).__name__} has no sample rate.")
        classes, weights = getattr(data, "classes", None), getattr(data, "weights", None)
        for name, given, own in (
            ("sample_rate", data.sample_rate, self.sample_rate),
            ("classes", None if classes is None else list(classes), self.classes),
            ("weights", self._or_mean(weights), self._or_mean(self.weights)),
        ):
            if given is not None and given != own:
                raise LassError(
                    f"The network is for {name} = {own}, but the data has {given}: set --data.{name} to the network's, "
                    "or train a network for this data."
                )

    @property
    def settings(self) -> dict[str, Any]:
        """All settings on which estimates depend; see `lass.methods.protocol.ConfiguredMethod`."""
        return self.config

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of the network; see `lass.methods.protocol.FittedMethod`."""
        return {"network": fingerprint(self)}

    def _or_mean(self, weights: Sequence[float] | None) -> list[float]:
        return [1 / self.num_sources] * self.num_sources if weights is None else list(weights)


def rescaled(
    estimates: Float[Tensor, "batch sources samples"],
    mixtures: Float[Tensor, "batch samples"],
    weights: Sequence[float],
) -> Float[Tensor, "batch sources samples"]:
    """Multiply each estimate by the gain of the least-squares fit of the mixture by the weighted sum of the estimates.

    The gains have either sign, because the SI-SDR does not depend on the sign of an estimate. A silent estimate remains
    silent. See `RIDGE` for nearly equal estimates.

    Args:
        estimates: Estimates of arbitrary scale.
        mixtures: Mixtures of the sources.
        weights: Mixing weight of each source.

    Returns:
        Estimates at the scale of the sources.
    """
    scales = estimates.new_tensor(weights)[:, None]
    norms = torch.linalg.vector_norm(estimates, dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)
    units = estimates / norms
    products = units @ units.transpose(1, 2) + RIDGE * torch.eye(estimates.shape[1], device=estimates.device)
    gains = torch.linalg.solve(products, units @ mixtures[:, :, None])
    return units * gains / scales


def torchaudio_model(name: str) -> Any:
    """Class of a network in `torchaudio.models`.

    Raises:
        LassError: if torchaudio is not installed.
    """
    try:
        return getattr(import_module("torchaudio.models"), name)
    except ImportError as error:
        raise LassError(f"{name} needs torchaudio ({error}): install the extra `train` of lass.") from error
