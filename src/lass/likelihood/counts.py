"""Counts of (first, second, mixture) code triples: the sparse tensor F of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import load_tensors, save_tensors
from lass.errors import LassError, check_number, check_sizes
from lass.likelihood.normalization import normalize
from lass.likelihood.sorted_runs import Run, collapse, run_of
from lass.likelihood.sparse import MAX_CODES, SparseLikelihood

WHAT = "likelihood (counts)"
BUFFER = 2**23  # number of keys that are sorted at once: 64 MiB
PART = 2**16  # number of keys computed at once, so that temporaries stay in a CPU's cache
MERGE_RATIO = 3  # a run is merged with the previous one unless that is at least 3 times as long


class SparseCounts:
    """Sparse frequency counts F[first, second, mixture] of code triples at one position.

    A triple is encoded as one int64 key, (mixture · K + first) · K + second. Keys are collected in a buffer. A full
    buffer is sorted into a run of distinct keys with their counts, and runs of similar length are merged, so that a
    triple is moved O(log n) times. Memory: 16 bytes per distinct triple, at most half as much again for runs that are
    not merged yet, and the buffer. If symmetric, only triples with first ≤ second are stored.

    Args:
        num_codes: Size K of the codebook.
        symmetric: Whether to count (second, first) together with (first, second), because the sum commutes.
        device: Device on which triples are counted.
        weights: Mixing weights of the sources, stored as metadata; None for the mean.
        codec_fingerprint: Fingerprint of the codec that the codes come from, stored so that codes of another codec are
            rejected.

    Raises:
        LassError: if K³ does not fit into an int64 key, or the counts are symmetric but the weights differ.

    Source: LASS (arXiv:2301.08562), section "Discrete Likelihoods for Source Separation".
    """

    def __init__(
        self,
        num_codes: int,
        symmetric: bool = True,
        device: torch.device | str = "cpu",
        weights: Sequence[float] | None = None,
        codec_fingerprint: str | None = None,
    ) -> None:
        check_sizes(MAX_CODES, num_codes=num_codes)
        if symmetric and weights is not None and len(set(weights)) > 1:
            raise LassError(
                f"sources mixed with the weights {list(weights)} do not commute: count with symmetric=False"
            )
        self.num_codes, self.symmetric, self.device = num_codes, symmetric, torch.device(device)
        self.weights = None if weights is None else list(weights)
        self.codec_fingerprint = codec_fingerprint
        self._buffer: Tensor | None = None  # keys that are not part of a run yet
        self._num_buffered = 0
        self._runs: list[Run] = []  # longest first

    @classmethod
    def from_triples(
        cls,
        num_codes: int,
        triples: Int[Tensor, "three nonzeros"],
        counts: Int[Tensor, " nonzeros"],
        codec_fingerprint: str | None = None,
    ) -> SparseCounts:
        """Return counts with given entries of F, which need not be symmetric: the inverse of the method `triples`.

        Args:
            num_codes: Size K of the codebook.
            triples: Codes of first source, second source and mixture of each entry, in any order.
            counts: The entries, at least 1.
            codec_fingerprint: See `SparseCounts`.

        Raises:
            LassError: if a code is outside 0…num_codes-1, a triple is given twice, or a count is below 1.
        """
        made = cls(num_codes, symmetric=False, device=counts.device, codec_fingerprint=codec_fingerprint)
        keys, order = made._keys(*made._checked(*triples)).sort()
        tensors = {"keys": keys, "counts": counts.long()[order]}
        if not _are_counts(tensors, num_codes):
            raise LassError("expected distinct triples of codes with counts of at least 1")
        return made.load_state_dict(tensors)

    def add(self, first: Int[Tensor, ...], second: Int[Tensor, ...], mixture: Int[Tensor, ...]) -> None:
        """Count triples; repeated triples are counted repeatedly.

        Args:
            first: Codes of one source, any shape.
            second: Codes of the other source at the same positions.
            mixture: Codes of their mixture at the same positions.

        Raises:
            LassError: if the shapes differ or a code is outside 0…num_codes-1; nothing is counted then.
        """
        codes = self._checked(first, second, mixture)
        if not codes[0].numel():
            return
        for part in zip(*(x.split(PART) for x in codes), strict=True):
            self._store(self._keys(*part))

    def merge(self, other: SparseCounts) -> None:
        """Add the counts of another object; exact, and independent of the order of merging.

        Raises:
            LassError: if num_codes, symmetric, weights or codec_fingerprint differ.
        """
        for name in ("num_codes", "symmetric", "weights", "codec_fingerprint"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise LassError(f"These counts do not belong together: {name} is {mine} here and {theirs} there.")
        keys, counts = other._merged()
        self._push(run_of(keys.to(self.device), counts.to(self.device)))

    @property
    def num_nonzero(self) -> int:
        """Number of non-zero entries of F, with both orders of a pair if symmetric (Table 1)."""
        keys, _ = self._merged()
        if not self.symmetric:
            return len(keys)
        first, second, _ = self._codes(keys)
        return 2 * len(keys) - int((first == second).sum())

    @property
    def density(self) -> float:
        """Fraction of the K³ entries of F that are non-zero (in percent in Table 1)."""
        return self.num_nonzero / self.num_codes**3

    @property
    def num_pairs_seen(self) -> int:
        """Number of distinct ordered pairs (first, second) that were counted with at least one mixture code."""
        pairs = (self._merged()[0] % self.num_codes**2).unique()
        if not self.symmetric:
            return len(pairs)
        return 2 * len(pairs) - int((pairs // self.num_codes == pairs % self.num_codes).sum())

    @property
    def num_triples(self) -> int:
        """Number of triples that were added, including repetitions."""
        return int(self._merged()[1].sum())

    @property
    def nonzeros_per_mixture_code(self) -> Int[Tensor, " num_codes"]:
        """Number of ordered pairs of source codes counted with each mixture code, (K,); their sum is `num_nonzero`."""
        first, second, mixture = self._codes(self._merged()[0])
        numbers = torch.bincount(mixture, minlength=self.num_codes)
        if self.symmetric:  # add the reverse pairs, which are not stored
            numbers += torch.bincount(mixture[first != second], minlength=self.num_codes)
        return numbers

    def triples(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return F in coordinate format: (first, second, mixture, counts), sorted by mixture, then first, then second.

        If symmetric, both orders of a pair are included, and a pair of equal codes is counted twice, as in the paper.
        """
        keys, counts = self._merged()
        first, second, mixture = self._codes(keys)
        if not self.symmetric:
            return first, second, mixture, counts
        equal = first == second
        counts = torch.where(equal, 2 * counts, counts)
        first, second = torch.cat([first, second[~equal]]), torch.cat([second, first[~equal]])
        mixture, counts = torch.cat([mixture, mixture[~equal]]), torch.cat([counts, counts[~equal]])
        order = ((mixture * self.num_codes + first) * self.num_codes + second).argsort()
        return first[order], second[order], mixture[order], counts[order]

    def likelihood(
        self, smoothing: float = 0.0, codebook: Float[Tensor, "num_codes dim"] | None = None
    ) -> SparseLikelihood:
        """Return p(mixture | first, second): the counts normalised over the mixture codes.

        Args:
            smoothing: Pseudo-count of every mixture code for every pair. It lowers the likelihood of pairs that were
                counted rarely, and assigns the difference to mixture codes they were never counted with. The separation
                still chooses only among pairs that were counted with the mixture code.
            codebook: The codec's vectors. With it, a mixture code that was never counted uses the pairs of the nearest
                (L2) counted code; without it, the pair of the code with itself.

        Raises:
            LassError: if nothing was counted, smoothing is negative, or the codebook has another size.
        """
        keys, counts = self._merged()
        if not len(counts):
            raise LassError("Nothing was counted yet, so there is no likelihood: count pairs of sources first.")
        check_number("smoothing, a pseudo-count,", smoothing, at_least=0)
        table = normalize(keys, counts, self.num_codes, self.symmetric, smoothing)
        if codebook is not None:
            if len(codebook) != self.num_codes:
                raise LassError(f"The codebook has {len(codebook)} vectors, but {self.num_codes} codes were counted.")
            table["nearest_counted"] = _nearest_counted(table["starts"].diff() > 0, codebook.to(self.device))
        return SparseLikelihood.from_table(self.num_codes, table, self.codec_fingerprint, self.symmetric)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file. It depends only on the counts, not on the order in which they were added."""
        metadata = {
            "num_codes": self.num_codes,
            "symmetric": self.symmetric,
            "weights": self.weights,
            "codec_fingerprint": self.codec_fingerprint,
        }
        save_tensors(path, self.state_dict(), {"kind": "counts", **metadata})

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> SparseCounts:
        """Read a file written by `save`.

        Raises:
            LassError: if the file is missing, truncated, or not a counts file.
        """
        tensors, metadata = load_tensors(path, WHAT, verify=True)  # the whole file is read in any case
        facts: dict[str, Any] = {
            name: metadata.get(name) for name in ("num_codes", "symmetric", "weights", "codec_fingerprint")
        }
        check_sizes(MAX_CODES, num_codes=facts["num_codes"])
        if metadata.get("kind") != "counts" or not _are_counts(tensors, facts["num_codes"]):
            raise LassError(f"{path} holds no counts: name the file that `make count` wrote.")
        return cls(**facts, device=device).load_state_dict(tensors)

    def compact(self) -> None:
        """Empty the buffer and merge all runs into one. Called by all methods that read the counts."""
        self._empty_buffer()
        while len(self._runs) > 1:
            self._merge_last_two()

    def to(self, device: torch.device | str) -> SparseCounts:
        """Return an object with these counts on another device."""
        return self.empty(device).load_state_dict(self.state_dict())

    def empty(self, device: torch.device | str | None = None) -> SparseCounts:
        """Return an empty object with the same settings; default on the same device."""
        device = self.device if device is None else device
        return SparseCounts(self.num_codes, self.symmetric, device, self.weights, self.codec_fingerprint)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the stored keys and counts, for a checkpoint."""
        keys, counts = self._merged()
        return {"keys": keys, "counts": counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> SparseCounts:
        """Replace the counts by those of a `state_dict` and return self."""
        self._num_buffered = 0
        self._runs = [run_of(state["keys"].to(self.device), state["counts"].to(self.device))]
        return self

    def _checked(self, *codes: Tensor) -> list[Tensor]:
        """Return codes of one shape as flat int64 tensors; raises the errors of `add`."""
        if len({x.shape for x in codes}) > 1:
            *shapes, last = (str(tuple(x.shape)) for x in codes)
            raise LassError(f"expected three tensors of one shape, got {', '.join(shapes)} and {last}")
        flat = [x.to(self.device, torch.int64).flatten() for x in codes]
        if flat[0].numel():
            lowest, highest = (int(bound) for bound in torch.stack([b for x in flat for b in x.aminmax()]).aminmax())
            if lowest < 0 or highest >= self.num_codes:
                raise LassError(f"codes must be in 0…{self.num_codes - 1}, got {lowest}…{highest}")
        return flat

    def _keys(self, first: Tensor, second: Tensor, mixture: Tensor) -> Tensor:
        if self.symmetric:
            first, second = torch.minimum(first, second), torch.maximum(first, second)
        return (mixture * self.num_codes + first) * self.num_codes + second

    def _codes(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pair, second = keys // self.num_codes, keys % self.num_codes
        return pair % self.num_codes, second, pair // self.num_codes

    def _store(self, keys: Tensor) -> None:
        if self._buffer is None:
            self._buffer = torch.empty(BUFFER, dtype=torch.int64, device=self.device)
        if self._num_buffered + len(keys) > BUFFER:
            self._empty_buffer()
        self._buffer[self._num_buffered : self._num_buffered + len(keys)] = keys
        self._num_buffered += len(keys)

    def _empty_buffer(self) -> None:
        if self._buffer is not None and self._num_buffered:
            runs = collapse(self._buffer[: self._num_buffered])
            self._num_buffered = 0
            for run in runs:
                self._push(run)

    def _push(self, run: Run) -> None:
        """Append a run, then merge the last two while they are of similar length."""
        self._runs.append(run)
        while len(self._runs) > 1 and MERGE_RATIO * len(self._runs[-1]) > len(self._runs[-2]):
            self._merge_last_two()

    def _merge_last_two(self) -> None:
        last = self._runs.pop()
        if len(last) > len(self._runs[-1]):  # `absorb` copies its argument, so this must be the shorter run
            last, self._runs[-1] = self._runs[-1], last
        self._runs[-1].absorb(last)

    def _merged(self) -> tuple[Tensor, Tensor]:
        """Return all distinct keys, ascending, and their counts."""
        self.compact()
        if not self._runs:
            empty = torch.zeros(0, dtype=torch.int64, device=self.device)
            return empty, empty
        return self._runs[0].tensors()


def _are_counts(tensors: dict[str, Tensor], num_codes: int) -> bool:
    """Whether tensors from a file are ascending keys of triples of these codes with a positive count for each."""
    if tensors.keys() != {"keys", "counts"} or any(x.dtype != torch.int64 or x.dim() != 1 for x in tensors.values()):
        return False
    keys, counts = tensors["keys"], tensors["counts"]
    if len(keys) != len(counts) or not len(keys):
        return len(keys) == len(counts)
    in_range = keys[0] >= 0 and keys[-1] < num_codes**3
    return bool(in_range and (keys.diff() > 0).all() and (counts > 0).all())


def _nearest_counted(is_counted: Tensor, codebook: Tensor) -> Tensor:
    """Return the nearest (L2) counted code of each code; a counted code is its own nearest."""
    counted = is_counted.nonzero()[:, 0]
    nearest = torch.arange(len(codebook), device=codebook.device)
    missing = ~is_counted
    nearest[missing] = counted[torch.cdist(codebook[missing], codebook[counted]).argmin(1)]
    return nearest
