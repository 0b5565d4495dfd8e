"""Counted likelihood of more than two sources: a chain of sparse tables over the codes of partial mixtures."""

# S sources, K num_codes

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import Origin, fingerprint, load_tensors, save_tensors
from lass.devices.numerics import widest_float
from lass.errors import LassError, check_number
from lass.likelihood.protocol import Pairs
from lass.likelihood.sparse import SparseLikelihood

CHAIN = "chain of likelihoods"
MAX_TABLES = 63  # that a file may name
ELEMENTS_AT_ONCE = 2**22  # tuples × codes, or tuples × entries, in one temporary


class Entries(NamedTuple):
    """Some entries of a table: pairs of codes, and the code of their mixture."""

    first: Tensor  # (entries,) long: code of the mixture of the sources before
    second: Tensor  # (entries,) long: code of the source
    mixture: Tensor  # (entries,) long: code of the mixture with it
    log_likelihood: Tensor  # (entries,) float


class ChainLikelihood:
    """p(mixture code | codes of S sources), for S ≥ 3, from tables of partial mixtures.

    Let mₛ be the code of the mixture of the first s sources, so that m₁ = z₁ and m_S is the code of the mixture. The
    likelihood is Σ over m₂ … m_{S−1} of Πₛ p(mₛ | mₛ₋₁, zₛ): S − 1 tables, counted like that of two sources, with
    memory linear in S.

    Args:
        tables: p(mₛ | mₛ₋₁, zₛ) for s = 2 … S; `first` of a table is mₛ₋₁, `second` is zₛ.

    Raises:
        LassError: if there is no table, or their codecs differ.

    Source: our own; LASS (arXiv:2301.08562), "Discrete Likelihoods for Source Separation", is the table of two sources.
    """

    def __init__(self, tables: Sequence[SparseLikelihood]) -> None:
        if not tables:
            raise LassError("A chain of likelihoods needs one table for each source after the first, got none.")
        for name in ("num_codes", "codec_fingerprint"):
            if len(values := {getattr(table, name) for table in tables}) > 1:
                raise LassError(f"The tables of a chain must be of one codec, but their {name} are {values}.")
        self.tables = list(tables)
        self.num_codes, self.codec_fingerprint = tables[0].num_codes, tables[0].codec_fingerprint
        self._entries: dict[int, Entries] = {}
        self._origin: Origin | None = None

    @property
    def num_sources(self) -> int:
        """S."""
        return len(self.tables) + 1

    def entries(self, table: int) -> Entries:
        """All entries of a table, sorted by the code of the mixture; computed once.

        A mixture code that was never counted has the entry (m, m) with likelihood 1, as in `SparseLikelihood`.
        """
        if table not in self._entries:
            state = self.tables[table].state_dict()
            numbers = state["starts"].diff()
            mixture = torch.arange(self.num_codes, device=self.device).repeat_interleave(numbers)
            uncounted = (numbers == 0).nonzero()[:, 0]
            mixture, order = torch.cat([mixture, uncounted]).sort(stable=True)
            fields = (state["first"], state["second"], state["log_likelihood"])
            certain = (uncounted, uncounted, torch.zeros_like(uncounted, dtype=torch.float32))
            first, second, log_likelihood = (
                torch.cat([x, more])[order] for x, more in zip(fields, certain, strict=True)
            )
            self._entries[table] = Entries(first, second, mixture, log_likelihood)
        return self._entries[table]

    def entries_of(self, table: int, mixture_code: int) -> Entries:
        """Entries of a table with one mixture code."""
        entries = self.entries(table)
        bounds = torch.searchsorted(entries.mixture, torch.tensor([mixture_code, mixture_code + 1], device=self.device))
        part = slice(*bounds.tolist())
        return Entries(*(field[part] for field in entries))

    def pairs(self, mixture_code: int) -> Pairs:
        """Pairs of the code of the first S − 1 sources' mixture and of the last source, given the mixture's code."""
        return self.tables[-1].pairs(mixture_code)

    def is_counted(self, mixture_code: int) -> bool:
        """Whether the mixture code was counted with any pair of the last table."""
        return self.tables[-1].is_counted(mixture_code)

    def log_likelihood(
        self, codes: Int[Tensor, "count S"], mixture_code: int, exponent: float = 1.0
    ) -> Float[Tensor, " count"]:
        """Log likelihood of a mixture's code given tuples of source codes, summed over the partial mixtures.

        Args:
            codes: Codes of the sources.
            mixture_code: Code of the mixture.
            exponent: Exponent of the entries of every table before they are multiplied and summed.
        """
        if codes.shape[1] != self.num_sources:
            raise LassError(
                f"This chain is for {self.num_sources} sources, but got {codes.shape[1]} codes of each tuple."
            )
        parts = codes.split(max(1, ELEMENTS_AT_ONCE // self.num_codes))
        return torch.cat([self._log_likelihood(part, mixture_code, exponent) for part in parts])

    def _log_likelihood(
        self, codes: Int[Tensor, "count S"], mixture_code: int, exponent: float
    ) -> Float[Tensor, " count"]:
        dtype = widest_float(codes.device)
        mass = torch.nn.functional.one_hot(codes[:, 0], self.num_codes).to(dtype)  # p(mₛ | z₁ … zₛ), (count, K)
        log_scale = mass.new_zeros(len(mass), 1)  # of mass, so that products of small probabilities do not underflow
        last = self.pairs(mixture_code)
        target = torch.full_like(last.first, mixture_code)
        for s in range(1, codes.shape[1]):
            final = s == codes.shape[1] - 1
            entries = Entries(last.first, last.second, target, last.log_likelihood) if final else self.entries(s - 1)
            mass, log_growth = _advanced(mass, codes[:, s], entries, exponent)
            log_scale = log_scale + log_growth
        return (mass[:, mixture_code].log() + log_scale[:, 0]).float()

    @property
    def device(self) -> torch.device:
        """Device of the tables."""
        return self.tables[0].device

    def to(self, device: torch.device | str) -> ChainLikelihood:
        """Return the likelihood on another device; self if it is there already."""
        moved = [table.to(device) for table in self.tables]
        return self if all(new is old for new, old in zip(moved, self.tables, strict=True)) else ChainLikelihood(moved)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tables; see `SparseLikelihood.state_dict`. The names of table s begin with `s.`."""
        tables = enumerate(self.tables, 2)
        return {f"{s}.{name}": x for s, table in tables for name, x in table.state_dict().items()}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, or a hard link to the file that this likelihood was loaded from; see `Origin`."""
        if self._origin is not None and self._origin.link(Path(path), fingerprint(self.state_dict())):
            return
        facts = {"num_codes": self.num_codes, "codec_fingerprint": self.codec_fingerprint}
        symmetric = [table.symmetric for table in self.tables]
        save_tensors(path, self.state_dict(), {"kind": CHAIN, **facts, "symmetric": symmetric})

    @classmethod
    def load(cls, path: str | Path) -> ChainLikelihood:
        """Read a file written by `save`.

        Raises:
            LassError: if the file is missing, truncated, or not a file of a chain of likelihoods.
        """
        tensors, metadata = load_tensors(path, CHAIN)
        symmetric: Any = metadata.get("symmetric")
        if metadata.get("kind") != CHAIN or not isinstance(symmetric, list):
            raise LassError(f"{path} holds no {CHAIN} of this version of lass: make it again.")
        check_number(f"number of tables in {path}", len(symmetric), at_least=1, at_most=MAX_TABLES, whole=True)
        tables = []
        for s, own in enumerate(symmetric, 2):
            table = {name.partition(".")[2]: x for name, x in tensors.items() if name.startswith(f"{s}.")}
            facts: Any = (metadata.get("num_codes"), table, metadata.get("codec_fingerprint"), own is True)
            tables.append(SparseLikelihood.from_file(path, *facts))
        likelihood = cls(tables)
        likelihood._origin = Origin.of(path, str(metadata.get("checksum")))
        return likelihood


def _advanced(
    mass: Tensor, codes: Int[Tensor, " count"], entries: Entries, exponent: float
) -> tuple[Float[Tensor, "count K"], Float[Tensor, "count 1"]]:
    """Σ over mₛ₋₁ of mass[mₛ₋₁] · p(mₛ | mₛ₋₁, zₛ)^exponent for each tuple and mₛ, scaled to a largest value of 1; and
    the log of the scale.
    """
    result, log_scale = torch.zeros_like(mass), torch.zeros_like(mass[:, :1])
    order = entries.second.argsort(stable=True)
    distinct, which = codes.unique(return_inverse=True)
    starts = torch.searchsorted(entries.second[order], torch.stack([distinct, distinct + 1])).tolist()
    for number, (start, end) in enumerate(zip(*starts, strict=True)):
        own, rows = order[start:end], (which == number).nonzero()[:, 0]
        if not len(own):  # this code was not counted
            continue
        log_factors = (exponent * entries.log_likelihood[own]).to(mass)
        highest = log_factors.max()
        for group in rows.split(max(1, ELEMENTS_AT_ONCE // len(own))):
            products = mass[group][:, entries.first[own]] * (log_factors - highest).exp()
            result[group] = result[group].index_add_(1, entries.mixture[own], products)
        log_scale[rows] = highest
    largest = result.amax(1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    return result / largest, log_scale + largest.log()
