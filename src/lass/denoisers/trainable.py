"""Base class of the denoisers that `lass.tasks.ScoreTraining` trains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lass.artifacts import Artifact


class TrainableDenoiser(Artifact):
    """Denoiser with a loss for clean sources. A subclass defines `denoise` and `loss`, and sets the attributes."""

    kind = "denoiser"
    shape: tuple[int, ...]  #: of a source, (channels, *space)
    sigma_min: float  #: lowest noise level of the training, in the units of the sources
    sigma_max: float  #: highest noise level of the training
    num_classes: int = 0  #: number of classes of sources; 0 for an unconditional denoiser

    def denoise(self, noisy: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """See `Denoiser.denoise`."""
        raise NotImplementedError(f"{type(self).__name__} must define denoise()")

    def loss(self, sources: Tensor, condition: Tensor | None = None) -> Tensor:
        """Loss of random noise levels and noise, mean over a batch.

        Args:
            sources: Clean sources, (batch, channels, *space).
            condition: Class of each source, or -1 to withhold it; not used by an unconditional denoiser.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss()")

    def random_levels(self, sources: Tensor) -> Tensor:
        """Draw a noise level for each source, (batch,), log-uniformly between `sigma_min` and `sigma_max`."""
        span = math.log(self.sigma_max / self.sigma_min)
        return self.sigma_min * (span * torch.rand(len(sources), device=sources.device)).exp()
