"""Separation with the prior of a GAN: latents whose generated images mix into the mixture."""

# M mixtures, S sources, D latents of a source, R restarts

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lass.artifacts import fingerprint
from lass.data.module import MAX_SOURCES
from lass.devices.precision import full_precision
from lass.errors import LassError, check_number
from lass.methods.generator import ImageGenerator
from lass.methods.signals import checked_mixtures, generators_of, weights_or_mean
from lass.separation.result import SeparationResult


class GANPrior:
    """Separates mixtures by gradient descent on the latents of a generator of single sources.

    The descent minimises the error of the mixture and a penalty of the latents, see `descend`, with Adam. It is started
    `num_restarts` times from random latents. The start with the smallest error of the mixture after `restart_steps` is
    continued for `steps`.

    Args:
        generator: Generator of the sources, or its folder.
        num_sources: Number S of sources.
        mixing_weights: Weight of each source in the mixtures; null for their mean, 1/S each.
        num_restarts: Number of random starts per mixture.
        restart_steps: Steps of each of them.
        steps: Steps of the best of them.
        learning_rate: Learning rate of Adam.
        penalty: Weight of the mean square of the latents.

    Raises:
        LassError: if a setting is out of range, or the folder holds no generator.

    Source: Kong et al. 2019 (arXiv:1906.07552), with known mixing weights instead of mixing filters to be estimated;
    the default settings are those of their code. Row S-D of Table 2 of LASS (arXiv:2301.08562). The idea is that of
    Subakan and Smaragdis 2018 (arXiv:1710.10779).
    """

    def __init__(
        self,
        generator: ImageGenerator | str | Path,
        num_sources: int = 2,
        mixing_weights: Sequence[float] | None = None,
        num_restarts: int = 8,
        restart_steps: int = 200,
        steps: int = 5000,
        learning_rate: float = 0.01,
        penalty: float = 1e-3,
    ) -> None:
        check_number("num_sources", num_sources, at_least=2, at_most=MAX_SOURCES, whole=True)
        weights_or_mean(mixing_weights, num_sources)
        check_number("num_restarts", num_restarts, at_least=1, whole=True)
        check_number("restart_steps", restart_steps, at_least=0, whole=True)
        check_number("steps", steps, at_least=0, whole=True)
        check_number("learning_rate", learning_rate, above=0)
        check_number("penalty", penalty, at_least=0)
        loaded = generator if isinstance(generator, ImageGenerator) else ImageGenerator.from_pretrained(generator)
        self.generator = loaded.eval()
        self.num_sources, self.mixing_weights = num_sources, mixing_weights
        self.num_restarts, self.restart_steps, self.steps = num_restarts, restart_steps, steps
        self.learning_rate, self.penalty = learning_rate, penalty

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
            mixtures: (M, channels, height, width).
            conditions: Not used.
            seed: Seed of the first latents.
            indices: Index of each mixture, default 0…M-1; the first latents are a function of (seed, index).

        Returns:
            Result with estimates (M, S, channels, height, width).

        Raises:
            LassError: if the mixtures have another shape than the generator's images, or there is not one index for
                each mixture.
        """
        mixtures = checked_mixtures(mixtures, 4, "(mixtures, channels, height, width)")
        if tuple(mixtures.shape[1:]) != self.generator.image_shape:
            raise LassError(
                f"This generator is for images of shape {self.generator.image_shape}, got {tuple(mixtures.shape[1:])}: "
                "separate images of that shape, or train another generator."
            )
        weights = weights_or_mean(self.mixing_weights, self.num_sources)
        generators = generators_of(mixtures, seed, indices)
        latents = generators.normal(self.num_restarts, self.num_sources, self.generator.latent_dim).flatten(0, 1)
        repeated = mixtures.repeat_interleave(self.num_restarts, 0)
        with full_precision(mixtures.device):
            latents = self._descend(latents, repeated, weights, self.restart_steps)
            errors = mixture_errors(self.generator, latents, repeated, weights).unflatten(0, (-1, self.num_restarts))
            best = latents.unflatten(0, (-1, self.num_restarts))[torch.arange(len(mixtures)), errors.argmin(1)]
            best = self._descend(best, mixtures, weights, self.steps)
            return SeparationResult(generated(self.generator, best))

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Groups of exchangeable sources, (num_mixtures, S) long: those of equal weight."""
        weights = weights_or_mean(self.mixing_weights, self.num_sources)
        return torch.tensor([weights.index(weight) for weight in weights]).expand(num_mixtures, -1)

    def to(self, device: torch.device | str) -> GANPrior:
        """Move the generator to a device."""
        # Lightning predicts in inference mode: parameters that are moved within it could not take part in autograd.
        with torch.inference_mode(False):
            self.generator.to(device)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """All settings on which estimates depend; see `lass.methods.protocol.ConfiguredMethod`."""
        names = ("num_sources", "mixing_weights", "num_restarts", "restart_steps", "steps", "learning_rate", "penalty")
        return {name: getattr(self, name) for name in names}

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of the generator; see `lass.methods.protocol.FittedMethod`."""
        return {"generator": fingerprint(self.generator)}

    def _descend(self, latents: Tensor, mixtures: Tensor, weights: Sequence[float], steps: int) -> Tensor:
        return descend(self.generator, latents, mixtures, weights, steps, self.learning_rate, self.penalty)


Generator = Callable[[Tensor], Tensor]


def descend(
    generator: Generator,
    latents: Float[Tensor, "M S D"],
    mixtures: Float[Tensor, "M channels height width"],
    weights: Sequence[float],
    steps: int,
    learning_rate: float = 0.01,
    penalty: float = 1e-3,
) -> Float[Tensor, "M S D"]:
    """Minimise the error of each mixture and the penalty of its latents by Adam. Mixtures do not influence each other.

    Args:
        generator: Maps latents (batch, D) to images (batch, channels, height, width).
        latents: First latents.
        mixtures: Mixtures.
        weights: Mixing weight of each source.
        steps: Number of steps.
        learning_rate: Learning rate of Adam.
        penalty: Weight of the mean square of the latents of each source, relative to `mixture_errors`.
    """
    # Lightning predicts in inference mode, whose tensors cannot take part in autograd: leave it and copy them.
    with torch.inference_mode(False), torch.enable_grad():
        mixtures, moving = mixtures.clone(), latents.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([moving], learning_rate)
        for _ in range(steps):
            loss = mixture_errors(generator, moving, mixtures, weights).sum() + penalty * moving.square().mean(2).sum()
            (moving.grad,) = torch.autograd.grad(loss, [moving])
            optimizer.step()
    return moving.detach()


def mixture_errors(
    generator: Generator,
    latents: Float[Tensor, "M S D"],
    mixtures: Float[Tensor, "M channels height width"],
    weights: Sequence[float],
) -> Float[Tensor, " M"]:
    """Mean squared error of each mixture, divided by the mean square of the weights.

    The divisor makes the error independent of the scale of the weights; for mixtures that are sums of sources it is 1.
    """
    factors = latents.new_tensor(weights)
    mixed = torch.einsum("s,ms...->m...", factors, generated(generator, latents))
    return (mixed - mixtures).square().flatten(1).mean(1) / factors.square().mean()


def generated(generator: Generator, latents: Float[Tensor, "M S D"]) -> Float[Tensor, "M S channels height width"]:
    """Images of the latents of all sources, in one batch."""
    return generator(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
