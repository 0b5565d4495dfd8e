"""Likelihood of the mixture's unquantised latents, which carry more information than its codes."""

# K num_codes, d channels of the latents

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import Origin, check_finite, fingerprint, load_tensors, save_tensors
from lass.devices.numerics import widest_float
from lass.errors import LassError, check_number, check_sizes
from lass.likelihood.protocol import Pairs

MOMENTS, LIKELIHOOD = "latent moments", "latent likelihood"
MAX_BYTES = 2**30  # limit of the size of the sums (K² vectors); computing a likelihood takes a few times as much
MAX_PAIRS_AT_ONCE = 2**18  # per mixture; with more pairs in total, only the most likely ones are returned
NEAREST_PAIRS = 2**15  # number of pairs that are returned in that case
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
        num_codes, dim = facts["num_codes"], facts["dim"]
        check_sizes(2**16, num_codes=num_codes, dim=dim)
        shapes = {"counts": (num_codes**2,), "sums": (num_codes**2, dim), "products": (dim, dim)}
        if metadata.get("kind") != MOMENTS or {name: tuple(x.shape) for name, x in tensors.items()} != shapes:
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
        counts, sums = self._counts[:, None], self._sums
        codebook = codebook.to(sums)
        start = ((codebook[:, None] + codebook) / 2).flatten(0, 1)
        share = torch.where(counts > 0, counts / (counts + shrinkage), 0.0)  # weight of the observed mean
        means = share * sums / counts.clamp(min=1) + (1 - share) * start
        crossed = sums.T @ means
        scatter = self._products - crossed - crossed.T + means.T @ (counts * means)
        covariance = scatter / counts.sum()
        # With few pairs, rounding can make the covariance indefinite.
        rounding = 1e-9 * self._products.diagonal().mean() / counts.sum()
        floor = (ridge * covariance.diagonal().mean() + rounding) * torch.eye(self.dim).to(covariance)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance + floor)).T
        if self.symmetric:
            pairs = torch.arange(self.num_codes**2, device=self.device)
            first, second = pairs // self.num_codes, pairs % self.num_codes
            means = means[torch.minimum(first, second) * self.num_codes + torch.maximum(first, second)]
        # Effective dimension with the ridge: trace((covariance + floor)⁻¹ covariance).
        effective_dim = torch.linalg.solve(covariance + floor, covariance).trace()
        table = {
            "means": (means @ whitening).float(),
            "whitening": whitening.float(),
            "tail": torch.stack([torch.tensor(degrees_of_freedom, dtype=torch.float64), effective_dim.cpu()]).float(),
        }
        if self.num_codes**2 > MAX_PAIRS_AT_ONCE:
            table |= _by_cell(table["means"], (codebook @ whitening).float())
        return LatentLikelihood(self.num_codes, table, self.codec_fingerprint, self.symmetric)


def _by_cell(means: Float[Tensor, "pairs dim"], centres: Float[Tensor, "cells dim"]) -> dict[str, Tensor]:
    """Sort the means by their nearest centre; return the entries of the table that describe the cells."""
    cells = torch.cat([torch.cdist(part, centres).argmin(1) for part in means.split(2**16)])
    cells, pairs = cells.sort(stable=True)
    bounds = torch.searchsorted(cells, torch.arange(len(centres) + 1, device=cells.device))
    return {"means": means[pairs], "pairs": pairs, "centres": centres, "bounds": bounds}


class LatentLikelihood:
    """log p(mixture's latents | first, second) up to a constant, for all pairs of codes or for the most likely ones.

    For latents v it is −(ν + d') / 2 · log(1 + q / ν) with q = |W (v − μ)|², where μ is the mean of the pair, W the
    whitening, ν the degrees of freedom and d' the effective dimension. Without a ridge d' is the dimension and this is
    Student's t; with a ridge it has the shape of Student's t, but is not a density. Only differences between pairs are
    meaningful. The `log_evidence` of a sampler therefore compares mixtures under one such likelihood only.

    With up to 2¹⁸ pairs (K = 512) all pairs are returned for every mixture, in addition to the `memory_budget` of
    `separate_codes`. With more, the means are partitioned into cells around the codebook vectors; the nearest cells
    that together have 2¹⁵ pairs are evaluated, and the 2¹⁵ most likely pairs among them returned.

    Args:
        num_codes: Size K of the codebook.
        table: Tensors, see `state_dict`.
        codec_fingerprint: Fingerprint of the codec that the codes belong to.
        symmetric: Whether the mean of (first, second) always equals that of (second, first).

    Source: our own, in place of the counted likelihood of LASS (arXiv:2301.08562), Eq. 4.
    """

    needs_latents = True  # `Separator` then passes the mixture's latents to `at`

    def __init__(
        self, num_codes: int, table: dict[str, Tensor], codec_fingerprint: str | None = None, symmetric: bool = False
    ) -> None:
        self.num_codes, self.codec_fingerprint, self._table = num_codes, codec_fingerprint, table
        self.symmetric = symmetric
        self._origin: Origin | None = None
        pairs = table.get("pairs", torch.arange(num_codes**2, device=self.device))
        self._first, self._second = pairs // num_codes, pairs % num_codes
        self._squared_means = table["means"].square().sum(1)
        self._degrees_of_freedom, self._effective_dim = table["tail"].tolist()

    def at(self, mixture_codes: list[int], mixture_latents: Tensor | None = None) -> list[Pairs]:
        """See `Likelihood`; depends on the latents only, not on the codes.

        Raises:
            LassError: if no latents are given.
        """
        if mixture_latents is None:
            raise LassError("This likelihood looks at the mixture's latents: give separate_codes mixture_latents.")
        whitened = mixture_latents.float() @ self._table["whitening"]
        if "centres" in self._table:
            return [self._nearest(latents) for latents in whitened]
        return [Pairs(self._first, self._second, row) for row in self._log_likelihood(whitened, slice(None))]

    def _nearest(self, latents: Float[Tensor, " dim"]) -> Pairs:
        """Return the most likely pairs in the cells nearest to a mixture's whitened latents."""
        cells = (self._table["centres"] - latents).square().sum(1).argsort()
        starts, ends = self._table["bounds"][cells], self._table["bounds"][cells + 1]
        num_cells = int(((ends - starts).cumsum(0) < NEAREST_PAIRS).sum()) + 1
        limits = zip(starts[:num_cells].tolist(), ends[:num_cells].tolist(), strict=True)
        rows = torch.cat([torch.arange(start, end, device=self.device) for start, end in limits])
        log_likelihood = self._log_likelihood(latents[None], rows)[0]
        log_likelihood, best = log_likelihood.topk(min(NEAREST_PAIRS, len(rows)), sorted=False)
        first, second = self._first[rows[best]], self._second[rows[best]]
        order = (first * self.num_codes + second).argsort()
        return Pairs(first[order], second[order], log_likelihood[order])

    def _log_likelihood(self, latents: Float[Tensor, "M dim"], rows: slice | Tensor) -> Float[Tensor, "M pairs"]:
        means, squared_means = self._table["means"][rows], self._squared_means[rows]
        distances = squared_means - 2 * latents @ means.T + latents.square().sum(1, keepdim=True)
        log_likelihood = distances.clamp_(min=0).div_(self._degrees_of_freedom).log1p_()
        log_likelihood *= -(self._degrees_of_freedom + self._effective_dim) / 2
        return log_likelihood

    @property
    def device(self) -> torch.device:
        """Device of the table."""
        return self._table["means"].device

    def to(self, device: torch.device | str) -> LatentLikelihood:
        """Return the likelihood on another device; self if it is there already."""
        if torch.device(device) == self.device:
            return self
        table = {name: tensor.to(device) for name, tensor in self._table.items()}
        return LatentLikelihood(self.num_codes, table, self.codec_fingerprint, self.symmetric)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the table.

        `means` (K², d): whitened mean of each pair; `whitening` (d, d): matrix by which latents are multiplied from the
        right; `tail` (2,): degrees of freedom and effective dimension. With cells also `pairs` (K²,): pair, first · K +
        second, of each row of `means`; `bounds` (cells + 1,): first row of each cell, and the end of the last;
        `centres` (cells, d): whitened centres of the cells.
        """
        return dict(self._table)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, or a hard link to the file that this likelihood was loaded from; see `Origin`."""
        if self._origin is not None and self._origin.link(Path(path), fingerprint(self._table)):
            return
        facts = {name: getattr(self, name) for name in ("num_codes", "codec_fingerprint", "symmetric")}
        save_tensors(path, self.state_dict(), {"kind": LIKELIHOOD, **facts})

    @classmethod
    def load(cls, path: str | Path) -> LatentLikelihood:
        """Read a file written by `save`.

        Raises:
            LassError: if the file is missing, truncated, or not a file of a latent likelihood.
        """
        table, metadata = load_tensors(path, LIKELIHOOD)
        num_codes: Any = metadata.get("num_codes")
        check_sizes(2**16, num_codes=num_codes)
        if metadata.get("kind") != LIKELIHOOD or not _is_table(table, num_codes):
            raise LassError(f"{path} holds no {LIKELIHOOD} of this version of lass: make it again.")
        likelihood = cls(num_codes, table, metadata.get("codec_fingerprint"), metadata.get("symmetric") is True)
        likelihood._origin = Origin.of(path, str(metadata.get("checksum")))
        return likelihood


def _is_table(table: dict[str, Tensor], num_codes: int) -> bool:
    """Whether tensors from a file have the names, shapes and ranges described in `LatentLikelihood.state_dict`."""
    if not {"means", "whitening", "tail"} <= table.keys() or table["whitening"].dim() != 2:
        return False
    dim = len(table["whitening"])
    shapes = {"means": (num_codes**2, dim), "whitening": (dim, dim), "tail": (2,)}
    if "centres" in table:
        num_cells = len(table["centres"])
        shapes |= {"pairs": (num_codes**2,), "centres": (num_cells, dim), "bounds": (num_cells + 1,)}
    if {name: tuple(x.shape) for name, x in table.items()} != shapes or not table["tail"][0] > 0:
        return False
    if "centres" not in table:
        return True
    bounds, pairs = table["bounds"], table["pairs"]
    ascending = bounds[0] == 0 and bounds[-1] == len(pairs) and (bounds.diff() >= 0).all()
    return bool(ascending and pairs.min() >= 0 and pairs.max() < num_codes**2)
