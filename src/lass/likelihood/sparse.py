"""Sparse likelihood p(mixture | first, second) of the mixture's codes, grouped by mixture code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lass.artifacts import Origin, fingerprint, load_tensors, save_tensors
from lass.errors import LassError, check_sizes
from lass.likelihood.protocol import Pairs

KIND = "likelihood"
FINITE_AT_ONCE = 2**20  # numbers checked at once, so that the temporaries stay in a CPU's cache
MAX_CODES = 2**21 - 1  # a triple of codes is encoded as one 63-bit number when it is counted


class SparseLikelihood:
    """Non-zero entries of the paper's tensor P, stored as one group of pairs per mixture code.

    A mixture code that was never counted has no pairs. The pairs of the nearest counted code are used instead if
    `SparseCounts.likelihood` was given a codebook. Otherwise the pair (m, m) with likelihood 1 is used, because the
    mean of a signal with itself is that signal.

    Args:
        num_codes: Size K of the codebook.
        first, second, mixture: Coordinates of the entries, sorted by mixture, then first, then second.
        log_likelihood: Log of the entries.
        codec_fingerprint: Fingerprint of the codec that the codes belong to.
        symmetric: Whether the entry of (first, second) always equals that of (second, first).

    Source: LASS (arXiv:2301.08562), section "Discrete Likelihoods for Source Separation"; the treatment of uncounted
    codes is our own.
    """

    def __init__(
        self,
        num_codes: int,
        first: Int[Tensor, " nonzeros"],
        second: Int[Tensor, " nonzeros"],
        mixture: Int[Tensor, " nonzeros"],
        log_likelihood: Float[Tensor, " nonzeros"],
        codec_fingerprint: str | None = None,
        symmetric: bool = False,
    ) -> None:
        boundaries = torch.arange(num_codes + 1, device=mixture.device)
        starts = torch.searchsorted(mixture.contiguous(), boundaries)
        table = {"first": first, "second": second, "log_likelihood": log_likelihood, "starts": starts}
        self._set(num_codes, table, codec_fingerprint, symmetric)

    @classmethod
    def from_table(
        cls, num_codes: int, table: dict[str, Tensor], codec_fingerprint: str | None = None, symmetric: bool = False
    ) -> SparseLikelihood:
        """Return a likelihood with the table of a `state_dict`, without copies."""
        likelihood = object.__new__(cls)
        likelihood._set(num_codes, table, codec_fingerprint, symmetric)
        return likelihood

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        num_codes: int,
        table: dict[str, Tensor],
        codec_fingerprint: str | None,
        symmetric: bool,
    ) -> SparseLikelihood:
        """Return a likelihood with a table that was read from the file at `path`.

        Raises:
            LassError: if the table has other names, shapes or ranges than those of `state_dict`.
        """
        check_sizes(MAX_CODES, num_codes=num_codes)
        if not _is_table(table, num_codes):
            raise LassError(f"{path} holds no {KIND} of this version of lass: make it again.")
        return cls.from_table(num_codes, table, codec_fingerprint, symmetric)

    def _set(self, num_codes: int, table: dict[str, Tensor], codec_fingerprint: str | None, symmetric: bool) -> None:
        self.num_codes, self.codec_fingerprint, self._table = num_codes, codec_fingerprint, table
        self.symmetric = symmetric
        self._origin: Origin | None = None
        self._starts: list[int] = table["starts"].tolist()
        nearest_counted = table.get("nearest_counted")
        self._nearest_counted_codes = None if nearest_counted is None else nearest_counted.tolist()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the table.

        `first`, `second`, `log_likelihood` (nonzeros,): the entries, sorted by mixture, first and second code; `starts`
        (K + 1,): first entry of each mixture code, and the end. With a codebook also `nearest_counted` (K,): nearest
        counted code of each code. With smoothing also `seen_pairs`: first · K + second of all counted pairs, ascending;
        and `log_unseen`: their log likelihood of a mixture code with which they were not counted.
        """
        return dict(self._table)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, or a hard link to the file that this likelihood was loaded from; see `Origin`."""
        if self._origin is not None and self._origin.link(Path(path), fingerprint(self._table)):
            return
        facts = {name: getattr(self, name) for name in ("num_codes", "codec_fingerprint", "symmetric")}
        save_tensors(path, self.state_dict(), {"kind": KIND, **facts})

    @classmethod
    def load(cls, path: str | Path) -> SparseLikelihood:
        """Read a file written by `save`. It is mapped into memory, and entries are read from it only when needed.

        Raises:
            LassError: if the file is missing, truncated, or not a file of a sparse likelihood.
        """
        table, metadata = load_tensors(path, KIND)
        if metadata.get("kind") != KIND:
            raise LassError(f"{path} holds no {KIND} of this version of lass: make it again.")
        num_codes: Any = metadata.get("num_codes")
        symmetric = metadata.get("symmetric") is True
        likelihood = cls.from_file(path, num_codes, table, metadata.get("codec_fingerprint"), symmetric)
        likelihood._origin = Origin.of(path, str(metadata.get("checksum")))
        return likelihood

    @property
    def device(self) -> torch.device:
        """Device of the table."""
        return self._table["first"].device

    def to(self, device: torch.device | str) -> SparseLikelihood:
        """Return the likelihood on another device; self if it is there already."""
        if torch.device(device) == self.device:
            return self
        table = {name: tensor.to(device) for name, tensor in self._table.items()}
        return self.from_table(self.num_codes, table, self.codec_fingerprint, self.symmetric)

    def is_counted(self, mixture_code: int) -> bool:
        """Whether the mixture code was counted with any pair."""
        return self._starts[mixture_code] < self._starts[mixture_code + 1]

    def pairs(self, mixture_code: int) -> Pairs:
        """Return all pairs that were counted with `mixture_code`, as views of the table.

        Raises:
            LassError: if the code is outside 0…num_codes-1.
        """
        if not 0 <= mixture_code < self.num_codes:
            raise LassError(f"Mixture codes must be in 0…{self.num_codes - 1}, got {mixture_code}.")
        if self._nearest_counted_codes is not None:
            mixture_code = self._nearest_counted_codes[mixture_code]
        elif not self.is_counted(mixture_code):
            code = torch.tensor([mixture_code], device=self.device)
            return Pairs(code, code, torch.zeros(1, device=self.device))
        part = slice(self._starts[mixture_code], self._starts[mixture_code + 1])
        return Pairs(*(self._table[name][part] for name in Pairs._fields))

    def at(self, mixture_codes: list[int], mixture_latents: Tensor | None = None) -> list[Pairs]:
        """See `Likelihood`; depends on the codes only, not on the latents."""
        return [self.pairs(code) for code in mixture_codes]

    def contains(
        self, first: Int[Tensor, "*shape"], second: Int[Tensor, "*shape"], mixture: Int[Tensor, "*shape"]
    ) -> Bool[Tensor, "*shape"]:
        """Whether each triple was counted."""
        return self._look_up(first, second, mixture)[1]

    def log_likelihood(
        self, first: Int[Tensor, "*shape"], second: Int[Tensor, "*shape"], mixture: Int[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return log p(mixture | first, second) of each triple.

        A triple that was not counted has −inf, or its smoothed value with smoothing. For a mixture code that was never
        counted, the entry of the nearest counted code is returned; without a codebook, 0 for the pair (m, m).
        """
        nearest_counted = self._table.get("nearest_counted")
        position, found = self._look_up(first, second, mixture if nearest_counted is None else nearest_counted[mixture])
        unseen = self._log_unseen(first, second)
        if nearest_counted is None:
            starts = self._table["starts"]
            certain = (starts[mixture] == starts[mixture + 1]) & (first == mixture) & (second == mixture)
            unseen = unseen.masked_fill(certain, 0.0)
        return torch.where(found, self._table["log_likelihood"][position], unseen)

    def _log_unseen(self, first: Tensor, second: Tensor) -> Tensor:
        if "seen_pairs" not in self._table:
            return torch.full(first.shape, -torch.inf, device=self.device)
        seen_pairs, pair = self._table["seen_pairs"], first * self.num_codes + second
        position = torch.searchsorted(seen_pairs, pair).clamp(max=len(seen_pairs) - 1)
        never = -torch.tensor(self.num_codes, device=self.device).log()
        return torch.where(seen_pairs[position] == pair, self._table["log_unseen"][position], never)

    def _look_up(self, first: Tensor, second: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position of each triple in the table, and whether it is there, by bisection within its mixture
        code.
        """
        starts, firsts, seconds = (self._table[name] for name in ("starts", "first", "second"))
        low, high = starts[mixture], starts[mixture + 1]
        end, last = high, len(firsts) - 1
        for _ in range(int((high - low).max()).bit_length() if low.numel() else 0):
            middle = (low + high) // 2
            probe = middle.clamp(max=last)
            before = (firsts[probe] < first) | ((firsts[probe] == first) & (seconds[probe] < second))
            before &= low < high
            low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle)
        position = low.clamp(max=last)
        return position, (low < end) & (firsts[position] == first) & (seconds[position] == second)


def _is_table(table: dict[str, Tensor], num_codes: int) -> bool:
    """Whether tensors from a file have the names, shapes and ranges described in `SparseLikelihood.state_dict`."""
    if not {"starts", *Pairs._fields} <= table.keys():
        return False
    optional = {"nearest_counted", "seen_pairs", "log_unseen"}
    if not table.keys() <= {"starts", *Pairs._fields, *optional} or ("seen_pairs" in table) != ("log_unseen" in table):
        return False
    if any(x.dtype != (torch.float32 if name.startswith("log") else torch.int64) for name, x in table.items()):
        return False
    starts, nearest_counted = table["starts"], table.get("nearest_counted", table["starts"][:0])
    first, second, log_likelihood = (table[name] for name in Pairs._fields)
    seen_pairs, log_unseen = (table.get(name, log_likelihood[:0]) for name in ("seen_pairs", "log_unseen"))
    if not (
        first.dim() == 1
        and first.shape == second.shape == log_likelihood.shape
        and starts.shape == (num_codes + 1,)
        and starts[0] == 0
        and starts[-1] == len(first)
        and (starts.diff() >= 0).all()
        and nearest_counted.dim() == 1
        and len(nearest_counted) in (0, num_codes)
        and seen_pairs.dim() == 1
        and seen_pairs.shape == log_unseen.shape
        and (len(seen_pairs) > 0 or "seen_pairs" not in table)
    ):
        return False
    # Codes of a file of any size are checked, because one out of range would be an index into other tensors.
    limits = {"first": num_codes, "second": num_codes, "nearest_counted": num_codes, "seen_pairs": num_codes**2}
    if not all(_are_below(table[name], limit) for name, limit in limits.items() if name in table):
        return False
    return all(bool(x.isfinite().all()) for part in (log_likelihood, log_unseen) for x in part.split(FINITE_AT_ONCE))


def _are_below(indices: Tensor, limit: int) -> bool:
    """Whether all indices are in 0…limit − 1; one pass."""
    if not len(indices):
        return True
    lowest, highest = indices.aminmax()
    return int(lowest) >= 0 and int(highest) < limit
