"""A likelihood of the mixture's latents before they are quantised: it tells more than the code that they become."""

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
MAX_BYTES = 2**30  # of the sums, one vector for each of the K² pairs; making a likelihood takes a few times that
MAX_PAIRS_AT_ONCE = 2**18  # that a likelihood gives for each mixture; with more pairs only the nearest are looked at
NEAREST_PAIRS = 2**15  # so many
FACTS = ("num_codes", "dim", "symmetric", "codec_fingerprint")  # what moments must agree in to be merged


class LatentMoments:
    """How often each pair of source codes occurred, and the sums of what the mixture's latents were there.

    Args:
        num_codes: size K of the codebook.
        dim: channels of the latents.
        symmetric: a pair and its reverse are the same, because the sum commutes.
        device: where the sums are; the CPU if the device has no float64, which sums of millions of latents need.
        codec_fingerprint: of the codec the codes come from, kept so that another codec's are refused.

    Raises:
        LassError: if K² vectors are too many to keep.
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
        """Take in the latents of mixtures at positions whose sources have the codes `first` and `second`."""
        if self.symmetric:
            first, second = torch.minimum(first, second), torch.maximum(first, second)
        check_finite({"latents": latents}, "This batch")
        pair = (first * self.num_codes + second).to(self.device)
        latents = latents.to(self.device).double()
        self._counts += torch.bincount(pair, minlength=self.num_codes**2)
        self._sums.index_add_(0, pair, latents)
        self._products += latents.T @ latents

    def merge(self, other: LatentMoments) -> None:
        """Add everything another one has taken in.

        Raises:
            LassError: if the other one is of another codec, or of ordered pairs where this one is not.
        """
        for name in FACTS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise LassError(f"These moments do not belong together: {name} is {mine} here and {theirs} there.")
        for name, mine in self.state_dict().items():
            mine += other.state_dict()[name].to(mine)

    def state_dict(self) -> dict[str, Tensor]:
        """The sums themselves."""
        return {"counts": self._counts, "sums": self._sums, "products": self._products}

    def load_state_dict(self, state: dict[str, Tensor]) -> LatentMoments:
        """Replace the sums by a `state_dict` and return self."""
        for name, mine in self.state_dict().items():
            mine.copy_(state[name])
        return self

    def to(self, device: torch.device | str) -> LatentMoments:
        """The same moments on another device."""
        facts = (self.num_codes, self.dim, self.symmetric, device, self.codec_fingerprint)
        return LatentMoments(*facts).load_state_dict(self.state_dict())

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        facts = {name: getattr(self, name) for name in FACTS}
        save_tensors(path, self.state_dict(), {"kind": MOMENTS, **facts})

    @classmethod
    def load(cls, path: str | Path) -> LatentMoments:
        """Read a file of `save`.

        Raises:
            LassError: if the file is missing, truncated, or holds something else.
        """
        tensors, metadata = load_tensors(path, MOMENTS, verify=True)  # all of it is needed anyway
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
        """p(latents | first, second) up to a constant: like Student's t around the mean of each pair, with one shape
        for all.

        The tails have to be heavy: what a pair leaves open differs much from pair to pair, and a Gaussian that fits
        all of them is far too sure about most.

        Args:
            codebook: the codec's vectors. The mean of two of them is where a pair's mean starts from.
            degrees_of_freedom: ν; smaller means heavier tails.
            shrinkage: how many occurrences that start counts for.
            ridge: added to the covariance's diagonal, relative to the diagonal's mean. Directions that hardly vary
                then hardly count.

        Raises:
            LassError: if nothing was taken in, the codebook has another size, or a setting makes no sense.
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
        share = torch.where(counts > 0, counts / (counts + shrinkage), 0.0)  # of what was seen
        means = share * sums / counts.clamp(min=1) + (1 - share) * start
        crossed = sums.T @ means
        scatter = self._products - crossed - crossed.T + means.T @ (counts * means)
        covariance = scatter / counts.sum()
        # Where few pairs were seen, rounding could leave less than nothing of the covariance.
        rounding = 1e-9 * self._products.diagonal().mean() / counts.sum()
        floor = (ridge * covariance.diagonal().mean() + rounding) * torch.eye(self.dim).to(covariance)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance + floor)).T
        if self.symmetric:
            pairs = torch.arange(self.num_codes**2, device=self.device)
            first, second = pairs // self.num_codes, pairs % self.num_codes
            means = means[torch.minimum(first, second) * self.num_codes + torch.maximum(first, second)]
        # With a ridge the latents have fewer directions that count: so many.
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
    """The means sorted by the centre that they are nearest to, and what says which are where."""
    cells = torch.cat([torch.cdist(part, centres).argmin(1) for part in means.split(2**16)])
    cells, pairs = cells.sort(stable=True)
    bounds = torch.searchsorted(cells, torch.arange(len(centres) + 1, device=cells.device))
    return {"means": means[pairs], "pairs": pairs, "centres": centres, "bounds": bounds}


class LatentLikelihood:
    """log p(mixture's latents | first, second) up to a constant, for all pairs of codes, or for the nearest.

    With W the whitening, q = |W (latents − mean of the pair)|², ν the degrees of freedom and d' the effective
    dimension, it is −(ν + d') / 2 · log(1 + q / ν). Without a ridge d' is the dimension and that is Student's t; with
    one it is t-shaped, but no density. Only differences between pairs mean something, and so `log_evidence` of a
    sampler compares mixtures under one such likelihood, no more.

    Up to 2¹⁸ pairs (K = 512) all come back for every mixture, outside the `memory_budget` of `separate_codes`. With
    more codes, pairs are kept in cells, each around a vector of the codebook, and the 2¹⁵ likeliest pairs of the
    nearest cells come back.

    Args:
        num_codes: size K of the codebook.
        table: see `state_dict`.
        codec_fingerprint: of the codec that the codes belong to.
        symmetric: the mean of (first, second) is that of (second, first).

    Source: our own, in place of the counted likelihood of LASS (arXiv:2301.08562), Eq. 4.
    """

    needs_latents = True  # of the mixture; `Separator` asks the codec for them

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
        """See Likelihood; the codes are not looked at.

        Raises:
            LassError: if there are no latents.
        """
        if mixture_latents is None:
            raise LassError("This likelihood looks at the mixture's latents: give separate_codes mixture_latents.")
        whitened = mixture_latents.float() @ self._table["whitening"]
        if "centres" in self._table:
            return [self._nearest(latents) for latents in whitened]
        return [Pairs(self._first, self._second, row) for row in self._log_likelihood(whitened, slice(None))]

    def _nearest(self, latents: Float[Tensor, " dim"]) -> Pairs:
        """The pairs in the cells that are nearest to a mixture's (whitened) latents."""
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
        """Where the table lies."""
        return self._table["means"].device

    def to(self, device: torch.device | str) -> LatentLikelihood:
        """The same likelihood on another device."""
        if torch.device(device) == self.device:
            return self
        table = {name: tensor.to(device) for name, tensor in self._table.items()}
        return LatentLikelihood(self.num_codes, table, self.codec_fingerprint, self.symmetric)

    def state_dict(self) -> dict[str, Tensor]:
        """`means` (K², d) of the pairs, whitened; `whitening` (d, d), to be multiplied from the right; `tail`, the
        degrees of freedom and the effective dimension. With cells also `pairs`, what the rows of `means` are the means
        of; `bounds`, where each cell begins and the last one ends; and `centres` of the cells, whitened.
        """
        return dict(self._table)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, or link the one that this likelihood was loaded from; see `Origin`."""
        if self._origin is not None and self._origin.link(Path(path), fingerprint(self._table)):
            return
        facts = {name: getattr(self, name) for name in ("num_codes", "codec_fingerprint", "symmetric")}
        save_tensors(path, self.state_dict(), {"kind": LIKELIHOOD, **facts})

    @classmethod
    def load(cls, path: str | Path) -> LatentLikelihood:
        """Read a file of `save`.

        Raises:
            LassError: if the file is missing, truncated, or holds something else.
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
    """Whether tensors from a file have the names, shapes and ranges that `LatentLikelihood.state_dict` describes."""
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
