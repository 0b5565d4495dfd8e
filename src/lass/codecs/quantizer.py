"""Vector quantisation with a codebook learned by exponential moving averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


class Quantized(NamedTuple):
    """Result of quantising latents."""

    quantized: Tensor  # (batch, dim, *grid): codebook vectors, with straight-through gradient to the latents
    codes: Tensor  # (batch, *grid) long
    commitment_loss: Tensor  # scalar: mean squared distance between latents and codebook vectors


class VectorQuantizer(nn.Module):
    """Nearest-neighbour vector quantiser whose codebook is updated by moving averages instead of gradients.

    Conversion of the data type does not affect its buffers, which stay in float32: in bfloat16, the updates of the
    moving averages would round to zero, and a rounded codebook would change codes.

    Args:
        num_codes: Codebook size K.
        dim: Channels of the latents.
        decay: Decay of the moving averages per training batch.
        restart_below: Usage threshold of dead codes: a code used less often per batch (moving average) is replaced by
            a random latent of the batch. If a batch has fewer than 16 latents per code, the threshold is a sixteenth
            of the mean usage.

    Source: van den Oord et al. 2017 (arXiv:1711.00937), Eq. 1, 2 and Appendix A.1 (moving averages); restart of dead
    codes: Dhariwal et al. 2020 (arXiv:2005.00341), section 3.1.
    """

    codebook: Tensor  # (num_codes, dim)
    usage: Tensor  # (num_codes,)
    total: Tensor  # (num_codes, dim)

    def __init__(self, num_codes: int, dim: int, decay: float = 0.99, restart_below: float = 1.0) -> None:
        super().__init__()
        self.decay, self.restart_below = decay, restart_below
        self.register_buffer("codebook", torch.randn(num_codes, dim))
        # Moving averages per batch: number of latents assigned to each code, and their sum.
        self.register_buffer("usage", torch.zeros(num_codes))
        self.register_buffer("total", torch.zeros(num_codes, dim))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VectorQuantizer:
        """Apply device changes, but not data type changes."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        return super()._apply(keep_dtype, recurse)

    @staticmethod
    def state_of(codebook: Float[Tensor, "num_codes dim"]) -> dict[str, Tensor]:
        """State dictionary of a quantiser with a given codebook, e.g. of an imported model."""
        return {"codebook": codebook, "usage": torch.ones(len(codebook)), "total": codebook.clone()}

    def lookup(self, latents: Float[Tensor, "batch dim *grid"]) -> Int[Tensor, "batch *grid"]:
        """Quantise latents: index of the nearest codebook vector at each position."""
        vectors = rearrange(latents, "b d ... -> (b ...) d").float()
        # Full precision also under autocast; otherwise codes in training would differ from codes at inference.
        with torch.autocast(latents.device.type, enabled=False):
            directions, offsets = self._directions_and_offsets()
            scores = vectors @ directions.T + offsets
        return scores.argmax(1).view(latents.shape[0], *latents.shape[2:])

    def _directions_and_offsets(self) -> tuple[Tensor, Tensor]:
        """Directions (K, dim) and offsets (K,): vector v gets the code that maximises v·direction + offset."""
        # -|v - c|² / 2 without the term -|v|² / 2, which does not depend on the code.
        return self.codebook, -self.codebook.square().sum(1) / 2

    def embed(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Codebook vectors of the codes, (batch, dim, *grid)."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def forward(self, latents: Float[Tensor, "batch dim *grid"]) -> Quantized:
        """Quantise latents; in training mode, also update the codebook."""
        if self.training and not self.usage.any():
            self._start_from(latents.detach())
        codes = self.lookup(latents.detach())
        quantized = self.embed(codes)
        commitment_loss = F.mse_loss(latents.float(), quantized)
        if self.training:
            self._follow(latents.detach(), codes)
        quantized = quantized.to(latents)
        return Quantized(latents + (quantized - latents).detach(), codes, commitment_loss)

    def _start_from(self, latents: Tensor) -> None:
        self.codebook.copy_(self._random_latents(latents))
        self.usage.fill_(self.restart_below)
        self.total.copy_(self.codebook * self.restart_below)

    @torch.no_grad()
    def _follow(self, latents: Tensor, codes: Tensor) -> None:
        vectors, codes = rearrange(latents, "b d ... -> (b ...) d").float(), codes.flatten()
        usage = torch.bincount(codes, minlength=len(self.codebook)).to(vectors)
        total = torch.zeros_like(self.total).index_add_(0, codes, vectors)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(usage)
            dist.all_reduce(total)
        least = (usage.mean() / 16).clamp(max=self.restart_below)
        self.usage.lerp_(usage, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        dead = (self.usage < least)[:, None]
        self.total.copy_(torch.where(dead, self._random_latents(latents) * least, self.total))
        self.usage.clamp_(min=least)
        self.codebook.copy_(self.total / self.usage[:, None])

    def _random_latents(self, latents: Tensor) -> Tensor:
        """One random latent of the batch per code, (K, dim); equal on all ranks."""
        vectors = rearrange(latents, "b d ... -> (b ...) d").float()
        chosen = vectors[torch.randint(len(vectors), (len(self.codebook),), device=vectors.device)]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(chosen, src=0)
        return chosen


class ProjectionQuantizer(VectorQuantizer):
    """Quantiser whose code is the argmax of K learned projections of the latent, for inference only.

    The codebook vectors are independent of the projections.

    Args:
        num_codes: Codebook size K.
        dim: Channels of the latents.

    Source: Jang et al. 2017 (arXiv:1611.01144), at inference: without Gumbel noise.
    """

    directions: Tensor  # (num_codes, dim)
    offsets: Tensor  # (num_codes,)

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__(num_codes, dim)
        self.register_buffer("directions", torch.randn(num_codes, dim))
        self.register_buffer("offsets", torch.zeros(num_codes))

    def _directions_and_offsets(self) -> tuple[Tensor, Tensor]:
        return self.directions, self.offsets
