"""Refinement: move the latents of the estimates until their decodings mix into the mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lass.artifacts import register
from lass.codecs import Codec
from lass.data.mixing import mix
from lass.errors import LassError


@runtime_checkable
class Refinement(Protocol):
    """Turns the chosen codes into signals."""

    def refine(self, codes: Tensor, mixtures: Tensor, codec: Codec) -> Tensor:
        """Estimates, (M, S, channels, *space).

        Args:
            codes: (M, S, *grid) of the chosen candidates.
            mixtures: (M, channels, *space).
            codec: whose decoder is descended through.
        """


@register
@dataclass(frozen=True)
class NoRefinement:
    """Only decodes."""

    @torch.no_grad()
    def refine(self, codes: Tensor, mixtures: Tensor, codec: Codec) -> Tensor:
        """See Refinement."""
        return codec.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


@register
@dataclass(frozen=True)
class LatentDescent:
    """Gradient descent (Adam) on the latents, from the codebook vectors of the codes.

    Args:
        steps: T of the paper.
        learning_rate: α of the paper.
        halve_every: steps after which α is halved, as in the authors' code; 0 keeps it.
        proximal_weight: weight of the mean squared distance to the start. It keeps the estimates near the prior: with
            the authors' 1e-3 the mixture is met, but the sources drift away (experiments/README.md, "Refinement").

    Source: LASS (arXiv:2301.08562), Eq. 5 and 6, whose sign as printed is ascent; descent is meant. Proximal term:
    the authors' code.
    """

    steps: int = 500
    learning_rate: float = 0.1
    halve_every: int = 100
    proximal_weight: float = 1e-2

    def __post_init__(self) -> None:
        if self.steps < 0 or self.learning_rate <= 0:
            raise LassError(
                f"Refinement needs steps ≥ 0 and learning_rate > 0, got {self.steps} and {self.learning_rate}."
            )

    def refine(self, codes: Tensor, mixtures: Tensor, codec: Codec) -> Tensor:
        """See Refinement. Mixtures do not influence each other."""
        # Lightning predicts in inference mode, whose tensors cannot be part of a gradient: leave it and copy.
        with torch.inference_mode(False), torch.enable_grad():
            start = codec.embed(codes.flatten(0, 1).clone()).detach()
            mixtures = mixtures.clone()
            latents = start.clone().requires_grad_()
            optimizer = torch.optim.Adam([latents], self.learning_rate)
            for step in range(self.steps):
                if self.halve_every and step and step % self.halve_every == 0:
                    optimizer.param_groups[0]["lr"] /= 2
                remixed = mix(codec.decode_latents(latents).unflatten(0, codes.shape[:2]))
                # Means within a mixture, a sum over mixtures: each has the gradient that it would have alone.
                misfit = (remixed - mixtures).square().flatten(1).mean(1).sum()
                distance = (latents - start).square().unflatten(0, codes.shape[:2]).flatten(2).mean(2).sum()
                loss = misfit + self.proximal_weight * distance
                (latents.grad,) = torch.autograd.grad(loss, [latents])
                optimizer.step()
        with torch.no_grad():
            return codec.decode_latents(latents.detach()).unflatten(0, codes.shape[:2])
