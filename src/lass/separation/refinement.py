"""Refinement: optimise the latents of the estimates so that the decoded sources mix into the mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from lass.artifacts import register
from lass.codecs import Codec
from lass.data.mixing import mix
from lass.errors import check_flag, check_number


@runtime_checkable
class Refinement(Protocol):
    """Turns latents into signals. Audio can be separated as a stream with a `LocalRefinement` only."""

    def refine(self, latents: Tensor, mixtures: Tensor, codec: Codec, weights: Sequence[float] | None = None) -> Tensor:
        """Return the estimates, (M, S, channels, *space).

        Args:
            latents: (M, S, dim, *grid), initial latents: the codebook vectors of the selected candidates, or the
                posterior mean.
            mixtures: (M, channels, *space).
            codec: Codec with a differentiable decoder.
            weights: Mixing weights; None for the mean.
        """
        ...


@runtime_checkable
class PosteriorRefinement(Refinement, Protocol):
    """A refinement that also uses how uncertain the latents are."""

    def refine_posterior(
        self,
        latents: Tensor,
        variances: Tensor,
        mixtures: Tensor,
        codec: Codec,
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        """Return the estimates as `refine` does; `variances` is the posterior variance of each number in `latents`."""
        ...


@runtime_checkable
class LocalRefinement(Refinement, Protocol):
    """A refinement in which a sample of the result depends on the mixture and the latents near it only."""

    @property
    def reach(self) -> int:
        """Samples to each side that a sample of the result depends on, beyond the codec's margin."""
        ...

    @property
    def step(self) -> int:
        """Signals that are cut at multiples of this number of samples give the same result within the reach."""
        ...


@register
@dataclass(frozen=True)
class NoRefinement:
    """Decode the latents without refinement."""

    reach: ClassVar[int] = 0
    step: ClassVar[int] = 1

    @torch.no_grad()
    def refine(self, latents: Tensor, mixtures: Tensor, codec: Codec, weights: Sequence[float] | None = None) -> Tensor:
        """See `Refinement`."""
        return decode_sources(latents, codec)


@register
@dataclass(frozen=True)
class LatentDescent:
    """Minimise the squared error between the mixture and the mixed decodings by gradient descent (Adam) on the latents.

    The objective is mean((mix(D(e¹), …, D(eˢ)) − y)²) + proximal_weight · Σₛ mean((eˢ − eˢ₀)²), where eˢ₀ are the
    initial latents of source s.

    Args:
        steps: Number of steps, T in the paper.
        learning_rate: Step size, α in the paper.
        halve_every: Number of steps after which α is halved, as in the authors' code; 0 keeps it constant.
        proximal_weight: Weight of the mean squared distance to the initial latents. It keeps the estimates near the
            prior: with the authors' 1e-3 the mixture is reproduced, but the sources drift away
            (experiments/mnist/README.md, "Refinement").
        project_to_mixture: Whether to replace the estimates finally by the nearest (L2) images in [0, 1] that mix into
            the mixture. For mixtures in [0, 1].

    Source: LASS (arXiv:2301.08562), Eq. 5 and 6, whose sign as printed is ascent; descent is meant. Proximal term: the
    authors' code.
    """

    steps: int = 500
    learning_rate: float = 0.1
    halve_every: int = 100
    proximal_weight: float = 1e-2
    project_to_mixture: bool = False

    def __post_init__(self) -> None:
        check_number("steps of LatentDescent", self.steps, at_least=0, whole=True)
        check_number("learning_rate of LatentDescent", self.learning_rate, above=0)
        check_number("halve_every of LatentDescent", self.halve_every, at_least=0, whole=True)
        check_number("proximal_weight of LatentDescent", self.proximal_weight, at_least=0)
        check_flag("project_to_mixture of LatentDescent", self.project_to_mixture)

    def refine(self, latents: Tensor, mixtures: Tensor, codec: Codec, weights: Sequence[float] | None = None) -> Tensor:
        """See `Refinement`. Mixtures do not influence each other."""
        refined = self.descend(latents, self.proximal_weight, mixtures, codec, weights)
        return self.consistent(NoRefinement().refine(refined, mixtures, codec), mixtures, weights)

    def descend(
        self,
        latents: Tensor,
        proximal_weight: float | Tensor,
        mixtures: Tensor,
        codec: Codec,
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        """Return the latents that minimise the objective, shaped like `latents`.

        Args:
            latents, mixtures, codec, weights: As of `refine`.
            proximal_weight: One weight, or one for every number in `latents`.
        """
        # Lightning predicts in inference mode, whose tensors cannot take part in autograd: leave it and copy them.
        with torch.inference_mode(False), torch.enable_grad():
            start = latents.clone().detach()
            factor = proximal_weight.clone() if isinstance(proximal_weight, Tensor) else proximal_weight
            mixtures = mixtures.clone()
            moving = start.clone().requires_grad_()
            optimizer = torch.optim.Adam([moving], self.learning_rate)
            for step in range(self.steps):
                if self.halve_every and step and step % self.halve_every == 0:
                    optimizer.param_groups[0]["lr"] /= 2
                decoded = decode_sources(moving, codec)
                # Mean within a mixture, sum over mixtures: the gradient of a mixture does not depend on its batch.
                misfit = (mix(decoded, weights) - mixtures).square().flatten(1).mean(1).sum()
                distance = (factor * (moving - start).square()).flatten(2).mean(2).sum()
                (moving.grad,) = torch.autograd.grad(misfit + distance, [moving])
                optimizer.step()
        return moving.detach()

    def consistent(self, estimates: Tensor, mixtures: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """Return the estimates, projected if `project_to_mixture`."""
        return nearest_consistent(estimates, mixtures, weights) if self.project_to_mixture else estimates


def decode_sources(latents: Tensor, codec: Codec) -> Tensor:
    """Decode latents, (M, S, dim, *grid), to signals, (M, S, channels, *space)."""
    return codec.decode_latents(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])


def nearest_consistent(estimates: Tensor, mixtures: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Project estimates to the nearest (L2) images in [0, 1] that mix into the mixture, pixel by pixel.

    The nearest point has the form clamp(eₛ + μ wₛ, 0, 1). Its mixture Σₛ wₛ clamp(eₛ + μ wₛ, 0, 1) is piecewise linear
    and ascending in μ, so μ is found exactly between two of its 2 S corners.

    Args:
        estimates: (M, S, channels, *space).
        mixtures: (M, channels, *space). Where no images in [0, 1] mix into them, the nearest mixture is reached.
        weights: Mixing weights; None for the mean.
    """
    num_sources = estimates.shape[1]
    factors = estimates.new_tensor(weights or [1 / num_sources] * num_sources)
    factors = factors.view(-1, *[1] * (estimates.dim() - 2))
    corners = torch.cat([-estimates / factors, (1 - estimates) / factors], 1).sort(1).values

    def mixed(shift: Tensor) -> Tensor:
        return (factors * (estimates + shift[:, None] * factors).clamp(0, 1)).sum(1)

    values = torch.stack([mixed(corner) for corner in corners.unbind(1)], 1)
    above = (values < mixtures[:, None]).sum(1, keepdim=True).clamp(1, 2 * num_sources - 1)  # first corner not below
    low, high = (values.gather(1, above - offset)[:, 0] for offset in (1, 0))
    start, end = (corners.gather(1, above - offset)[:, 0] for offset in (1, 0))
    part = ((mixtures - low) / (high - low).clamp(min=torch.finfo(low.dtype).tiny)).clamp(0, 1)
    return (estimates + (start + part * (end - start))[:, None] * factors).clamp(0, 1)
