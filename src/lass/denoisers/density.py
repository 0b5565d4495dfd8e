"""Base class of denoisers that are densities of noisy sources."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lass.denoisers.trainable import TrainableDenoiser
from lass.errors import LassError


class DensityDenoiser(TrainableDenoiser):
    """Density p(x + σ ε) of noisy sources by the noise level, trained by maximum likelihood.

    A subclass defines `log_prob`, and sets the attributes of `TrainableDenoiser`.
    """

    def log_prob(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Log density of noisy sources, (batch,).

        Args:
            noisy: Sources with noise, (batch, channels, *space).
            sigma: Standard deviation of the noise, (batch,), in the units of the sources.

        Raises:
            LassError: if the sources have another shape than those of the training.
        """
        raise NotImplementedError(f"{type(self).__name__} must define log_prob()")

    def denoise(self, noisy: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """Expected clean sources by Tweedie's formula, x + σ² ∇ log p(x); see `Denoiser.denoise`.

        Raises:
            LassError: if the sources have another shape, or a class is given.
        """
        if condition is not None:
            raise LassError(f"A {type(self).__name__} has no classes: leave out the condition.")
        # Lightning predicts in inference mode, whose tensors cannot take part in autograd: leave it and copy them.
        with torch.inference_mode(False), torch.enable_grad():
            noisy = noisy.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_prob(noisy, sigma.clone()).sum(), noisy)
        return noisy.detach() + sigma.square().reshape(-1, *[1] * (noisy.ndim - 1)) * gradient

    def loss(self, sources: Tensor, condition: Tensor | None = None) -> Tensor:
        """Negative log likelihood of noisy sources in nats per dimension, for noise levels drawn log-uniformly.

        Args:
            sources: Clean sources, (batch, channels, *space).
            condition: Not used.

        Returns:
            Mean over the batch.
        """
        sigma = self.random_levels(sources)
        level = sigma.reshape(-1, *[1] * (sources.ndim - 1))
        noisy = sources + level * torch.randn_like(sources)
        return -self.log_prob(noisy, sigma).mean() / math.prod(sources.shape[1:])
