"""Sources whose values are independent draws from mixtures of Gaussians: exact denoisers and exact posteriors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """Denoiser of values with the density Σ probabilityⱼ N(meanⱼ, stdⱼ²)."""

    probabilities: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def denoise(self, noisy: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        variance = sigma.square().reshape(-1, *[1] * (noisy.ndim - 1))
        expected, logits = [], []
        for probability, mean, std in zip(self.probabilities, self.means, self.stds, strict=True):
            total = std**2 + variance
            expected.append(mean + std**2 / total * (noisy - mean))
            logits.append(math.log(probability) - 0.5 * total.log() - 0.5 * (noisy - mean).square() / total)
        return (torch.stack(expected) * torch.stack(logits).softmax(0)).sum(0)


@dataclass(frozen=True)
class Posterior:
    """Mixture of Gaussians of the values of all sources: moments over all modes, and of each mode."""

    probabilities: Tensor  # (modes,)
    means: Tensor  # (modes, sources)
    covariances: Tensor  # (modes, sources, sources)

    @property
    def mean(self) -> Tensor:
        return self.probabilities @ self.means

    @property
    def covariance(self) -> Tensor:
        centred = self.means - self.mean
        within = torch.einsum("j,jst->st", self.probabilities, self.covariances)
        return within + torch.einsum("j,js,jt->st", self.probabilities, centred, centred)


def posterior(
    sources: Sequence[GaussianMixture], weights: Sequence[float], mixture: float, sigma: float, noise: float
) -> Posterior:
    """Posterior of the values of sources with Gaussian noise of standard deviation `sigma`, given their mixture.

    The mixture is Σ weightₛ valueₛ plus noise of standard deviation `noise`. One Gaussian is conditioned on one
    observation for every choice of a component per source.
    """
    row = torch.tensor(weights, dtype=torch.float64)
    logits, means, covariances = [], [], []
    for modes in itertools.product(*(range(len(source.means)) for source in sources)):
        pairs = list(zip(sources, modes, strict=True))
        mean = torch.tensor([source.means[j] for source, j in pairs], dtype=torch.float64)
        covariance = torch.diag(torch.tensor([source.stds[j] ** 2 + sigma**2 for source, j in pairs]).double())
        variance = row @ covariance @ row + noise**2
        gain = covariance @ row / variance
        logit = sum(math.log(source.probabilities[j]) for source, j in pairs)
        logits.append(logit - 0.5 * math.log(variance) - 0.5 * float(mixture - row @ mean) ** 2 / float(variance))
        means.append(mean + gain * (mixture - row @ mean))
        covariances.append(covariance - torch.outer(gain, row @ covariance))
    return Posterior(torch.tensor(logits).double().softmax(0), torch.stack(means), torch.stack(covariances))
