"""Sufficient statistics of the mixture's latents given each pair of source codes, and the likelihood fitted to them."""

# K num_codes, d channels of the latents

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import check_finite, load_tensors, save_tensors
from lass.devices.numerics import widest_float
from lass.errors import LassError, check_number, check_sizes
from lass.likelihood.latents import LatentLikelihood

MOMENTS = "latent moments"
MAX_BYTES = 2**30  # limit of the size of the sums (K² vectors); computing a likelihood takes a few times as much
MAX_PAIRS_AT_ONCE = 2**18  # with more pairs, the likelihood has cells and returns only the most likely pairs
FACTS = ("num_codes", "dim", "symmetric", "codec_fingerprint")  # attributes that must be equal for merging


class LatentMoments:
    """Sufficient statistics of the mixture's latents given each pair of source codes: counts, sums and second moments.

    For K² pairs and latents v of dimension d these are the number of occurrences (K²), Σ v per pair (K², d), and Σ v vᵀ
    over all pairs (d, d), in float64.

    Args:
        num_codes: Size K of the codebook.
        dim: Number d of channels of the latents.
        symmetric: Whether a pair and its reverse are identified, because the sum commutes.
        device: Device of the sums; replaced by the CPU if it has no float64, which sums of millions of latents need.
        codec_fingerprint: Fingerprint of the codec that the codes come from, stored so that codes of another codec are
            rejected.

    Raises:
        LassError: if the sums would exceed 1 GiB.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        symmetric: bool = True,
        device: torch.device | str = "cpu",
        codec_fingerprint: str | None = None,
    ) -> None:
        needed = num_codes**2 * dim * 8
        if needed > MAX_BYTES:
            raise LassError(
                f"The latents of all pairs of {num_codes} codes would take {needed / 2**30:.0f} GiB: count codes only "
                "(latents=false), or use a codec with fewer codes."
            )
        self.num_codes, self.dim, self.symmetric = num_codes, dim, symmetric
        self.device = torch.device(device if widest_float(device) == torch.float64 else "cpu")
        self.codec_fingerprint = codec_fingerprint
        zeros = partial(torch.zeros, dtype=torch.float64, device=self.device)
        self._counts = zeros(num_codes**2)
        self._sums = zeros(num_codes**2, dim)
        self._products = zeros(dim, dim)  # Σ v vᵀ over everything

    def add(
        self, first: Int[Tensor, " count"], second: Int[Tensor, " count"], latents: Float[Tensor, "count dim"]
    ) -> None:
        """Add the mixtures' latents at positions at which the sources have the codes `first` and `second`."""
        if self.symmetric:
            first, second = torch.minimum(first, second), torch.maximum(first, second)
        check_finite({"latents": latents}, "This batch")
        pair = (first * self.num_codes + second).to(self.device)
        latents = latents.to(self.device).double()
        self._counts += torch.bincount(pair, minlength=self.num_codes**2)
        self._sums.index_add_(0, pair, latents)
        self._products += latents.T @ latents

    def merge(self, other: LatentMoments) -> None:
        """Add the sums of another object.

        Raises:
            LassError: if num_codes, dim, symmetric or codec_fingerprint differ.
        """
        for name in FACTS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise LassError(f"These moments do not belong together: {name} is {mine} here and {theirs} there.")
        for name, mine in self.state_dict().items():
            mine += other.state_dict()[name].to(mine)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums: `counts` (K²,), `sums` (K², d), `products` (d, d); not copied."""
        return {"counts": self._counts, "sums": self._sums, "products": self._products}

    def load_state_dict(self, state: dict[str, Tensor]) -> LatentMoments:
        """Replace the sums by those of a `state_dict` and return self."""
        for name, mine in self.state_dict().items():
            mine.copy_(state[name])
        return self

    def to(self, device: torch.device | str) -> LatentMoments:
        """Return a copy on another device."""
        facts = (self.num_codes, self.dim, self.symmetric, device, self.codec_fingerprint)
        return LatentMoments(*facts).load_state_dict(self.state_dict())

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        facts = {name: getattr(self, name) for name in FACTS}
        save_tensors(path, self.state_dict(), {"kind": MOMENTS, **facts})

    @classmethod
    def load(cls, path: str | Path) -> LatentMoments:
        """Read a file written by `save`.

        Raises:
            LassError: if the file is missing, truncated, or not a file of latent moments.
        """
        tensors, metadata = load_tensors(path, MOMENTS, verify=True)  # the whole file is read in any case
        facts: dict[str, Any] = {name: metadata.get(name) for name in FACTS}
        shapes: dict[str, tuple[int, ...]] = {}
        if metadata.get("kind") == MOMENTS:
            num_codes, dim = facts["num_codes"], facts["dim"]
            check_sizes(2**16, num_codes=num_codes, dim=dim)
            shapes = {"counts": (num_codes**2,), "sums": (num_codes**2, dim), "products": (dim, dim)}
        if {name: tuple(x.shape) for name, x in tensors.items()} != shapes:
            raise LassError(f"{path} holds no {MOMENTS}: name the file that `make count` wrote with latents=true.")
        return cls(**facts).load_state_dict(tensors)

    def likelihood(
        self,
        codebook: Float[Tensor, "num_codes dim"],
        degrees_of_freedom: float = 4.0,
        shrinkage: float = 4.0,
        ridge: float = 1.0,
    ) -> LatentLikelihood:
        """Fit Student's t to the latents around the mean of each pair of codes, with one scatter matrix for all pairs.

        Gives log p(latents | first, second) up to a constant. Heavy tails are needed because the spread of the latents
        differs strongly between pairs: a Gaussian with a shared covariance is overconfident for most of them.

        Args:
            codebook: The codec's vectors. The mean of two of them is the prior mean of their pair.
            degrees_of_freedom: ν; smaller values mean heavier tails.
            shrinkage: Weight of the prior mean, in number of occurrences.
            ridge: Multiple of the mean diagonal element that is added to the diagonal of the covariance. Low-variance
                directions are thereby down-weighted.

        Raises:
            LassError: if nothing was added, the codebook has another size, or a setting is out of range.
        """
        check_number("degrees_of_freedom", degrees_of_freedom, above=0)
        check_number("shrinkage", shrinkage, at_least=0)
        check_number("ridge", ridge, at_least=0)
        if not self._counts.any():
            raise LassError("Nothing was counted yet, so there is no likelihood: count pairs of sources first.")
        if tuple(codebook.shape) != (self.num_codes, self.dim):
            raise LassError(
                f"Expected a codebook of shape ({self.num_codes}, {self.dim}), got {tuple(codebook.shape)}: it belongs "
                "to another codec."
            )
        codebook = codebook.to(self._sums)
        means = self._means(codebook, shrinkage)
        covariance = self._residual_covariance(means)
        # With few pairs, rounding can make the covariance indefinite.
        rounding = 1e-9 * self._products.diagonal().mean() / self._counts.sum()
        floor = (ridge * covariance.diagonal().mean() + rounding) * torch.eye(self.dim).to(covariance)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance + floor)).T
        # Effective dimension with the ridge: trace((covariance + floor)⁻¹ covariance).
        effective_dim = torch.linalg.solve(covariance + floor, covariance).trace()
        if self.symmetric:
            means = self._both_orders(means)
        table = {
            "means": (means @ whitening).float(),
            "whitening": whitening.float(),
            "tail": torch.stack([torch.tensor(degrees_of_freedom, dtype=torch.float64), effective_dim.cpu()]).float(),
        }
        if self.num_codes**2 > MAX_PAIRS_AT_ONCE:
            table |= _by_cell(table["means"], (codebook @ whitening).float())
        return LatentLikelihood(self.num_codes, table, self.codec_fingerprint, self.symmetric)

    def _means(self, codebook: Float[Tensor, "num_codes dim"], shrinkage: float) -> Float[Tensor, "pairs dim"]:
        """Mean latents of each pair, shrunk towards the mean of the pair's codebook vectors."""
        counts = self._counts[:, None]
        prior_means = ((codebook[:, None] + codebook) / 2).flatten(0, 1)
        weight = torch.where(counts > 0, counts / (counts + shrinkage), 0.0)  # of the observed mean
        return weight * self._sums / counts.clamp(min=1) + (1 - weight) * prior_means

    def _residual_covariance(self, means: Float[Tensor, "pairs dim"]) -> Float[Tensor, "dim dim"]:
        """Covariance of the latents around the means of their pairs, pooled over all pairs."""
        crossed = self._sums.T @ means
        scatter = self._products - crossed - crossed.T + means.T @ (self._counts[:, None] * means)
        return scatter / self._counts.sum()

    def _both_orders(self, means: Float[Tensor, "pairs dim"]) -> Float[Tensor, "pairs dim"]:
        """Copy the means of the pairs with first ≤ second, which were counted, to their reverses."""
        pairs = torch.arange(self.num_codes**2, device=self.device)
        first, second = pairs // self.num_codes, pairs % self.num_codes
        return means[torch.minimum(first, second) * self.num_codes + torch.maximum(first, second)]


def _by_cell(means: Float[Tensor, "pairs dim"], centres: Float[Tensor, "cells dim"]) -> dict[str, Tensor]:
    """Sort the means by their nearest centre; return the entries of the table that describe the cells."""
    cells = torch.cat([torch.cdist(part, centres).argmin(1) for part in means.split(2**16)])
    cells, pairs = cells.sort(stable=True)
    bounds = torch.searchsorted(cells, torch.arange(len(centres) + 1, device=cells.device))
    return {"means": means[pairs], "pairs": pairs, "centres": centres, "bounds": bounds}
