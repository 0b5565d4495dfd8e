"""Vector quantisation with a codebook that follows the data as an exponential moving average."""

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

    quantized: Tensor  # (batch, dim, *grid), forward: the codebook vectors; backward: the identity
    codes: Tensor  # (batch, *grid) long
    commitment_loss: Tensor  # scalar, mean squared distance that pulls the encoder to the codebook


class VectorQuantizer(nn.Module):
    """Nearest-neighbour codebook, learned without a gradient. It stays in float32 when a module around it is converted:
    moving averages would stand still in bfloat16, and a rounded codebook gives other codes.

    Args:
        num_codes: size K of the codebook.
        dim: channels of the latents.
        decay: of the moving averages, per training batch.
        restart_below: a code that is used less often than this per batch (moving average) is dead; it starts again at
            a random latent of the batch. Where batches hold fewer than 16 latents for each code, it is a sixteenth of
            the mean use.

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
        # Moving averages of how often a code is used per batch and of the sum of the latents it stands for.
        self.register_buffer("usage", torch.zeros(num_codes))
        self.register_buffer("total", torch.zeros(num_codes, dim))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VectorQuantizer:
        """Change the device, as fn does, and not the data type."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        return super()._apply(keep_dtype, recurse)

    @staticmethod
    def state_of(codebook: Float[Tensor, "num_codes dim"]) -> dict[str, Tensor]:
        """State of a quantizer that was trained elsewhere."""
        return {"codebook": codebook, "usage": torch.ones(len(codebook)), "total": codebook.clone()}

    def lookup(self, latents: Float[Tensor, "batch dim *grid"]) -> Int[Tensor, "batch *grid"]:
        """Code of the nearest codebook vector at every position."""
        vectors = rearrange(latents, "b d ... -> (b ...) d").float()
        # In full precision also under autocast, or training would use other codes than everything after it.
        with torch.autocast(latents.device.type, enabled=False):
            directions, offsets = self._directions_and_offsets()
            scores = vectors @ directions.T + offsets
        return scores.argmax(1).view(latents.shape[0], *latents.shape[2:])

    def _directions_and_offsets(self) -> tuple[Tensor, Tensor]:
        """(K, dim) and (K,): the code of v is that with the largest v·direction + offset."""
        # -|v - c|² / 2 without |v|², which is the same for all codes.
        return self.codebook, -self.codebook.square().sum(1) / 2

    def embed(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Codebook vectors of the codes, channels second."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def forward(self, latents: Float[Tensor, "batch dim *grid"]) -> Quantized:
        """Quantise; in training mode also let the codebook follow the latents."""
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
        """One random latent per code, the same on every rank."""
        vectors = rearrange(latents, "b d ... -> (b ...) d").float()
        chosen = vectors[torch.randint(len(vectors), (len(self.codebook),), device=vectors.device)]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(chosen, src=0)
        return chosen


class ProjectionQuantizer(VectorQuantizer):
    """The code is the largest of K learned projections; its vector may lie anywhere. For use, not for training.

    Args:
        num_codes: size K of the codebook.
        dim: channels of the latents.

    Source: Jang et al. 2017 (arXiv:1611.01144), as it is used once it is trained: without noise.
    """

    directions: Tensor  # (num_codes, dim)
    offsets: Tensor  # (num_codes,)

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__(num_codes, dim)
        self.register_buffer("directions", torch.randn(num_codes, dim))
        self.register_buffer("offsets", torch.zeros(num_codes))

    def _directions_and_offsets(self) -> tuple[Tensor, Tensor]:
        return self.directions, self.offsets
