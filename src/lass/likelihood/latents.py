"""Likelihood of the mixture's unquantised latents, which carry more information than its codes."""

# K num_codes, d channels of the latents

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lass.artifacts import Origin, fingerprint, load_tensors, save_tensors
from lass.errors import LassError, check_sizes
from lass.likelihood.protocol import Pairs

LIKELIHOOD = "latent likelihood"
NEAREST_PAIRS = 2**15  # number of pairs that are returned per mixture, if the table has cells


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
            raise LassError("This likelihood needs the mixture's latents: pass mixture_latents to separate_codes.")
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
        if metadata.get("kind") == LIKELIHOOD:
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
    indices = {"pairs", "bounds"}
    if any(x.dtype != (torch.int64 if name in indices else torch.float32) for name, x in table.items()):
        return False
    if "centres" not in table:
        return True
    bounds, pairs = table["bounds"], table["pairs"]
    ascending = bounds[0] == 0 and bounds[-1] == len(pairs) and (bounds.diff() >= 0).all()
    return bool(ascending and pairs.min() >= 0 and pairs.max() < num_codes**2)
