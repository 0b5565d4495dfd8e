"""Sorted runs, the storage of `SparseCounts`: distinct int64 keys in ascending order with their counts, mergeable."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from torch import Tensor

BLOCK = 2**17  # maximum number of entries of each run that are merged at once


@runtime_checkable
class Run(Protocol):
    """Distinct int64 keys in ascending order and their counts."""

    def __len__(self) -> int:
        """Number of keys."""

    def absorb(self, other: Any) -> None:
        """Merge another run of the same class into this one; counts of the same key are added."""

    def tensors(self) -> tuple[Int[Tensor, " keys"], Int[Tensor, " keys"]]:
        """Return keys and counts."""


def collapse(keys: Int[Tensor, " keys"]) -> list[Run]:
    """Sort keys and count how often each occurs. On the CPU they are sorted in place, into one run per thread."""
    if keys.device.type != "cpu":
        return [DeviceRun(*keys.sort().values.unique_consecutive(return_counts=True))]

    def collapse_part(part: Tensor) -> Run:
        part.numpy().sort()  # NumPy's sort is several times as fast as torch's
        return HostRun(*part.unique_consecutive(return_counts=True))

    return _in_threads(collapse_part, keys.chunk(torch.get_num_threads()))


def run_of(keys: Int[Tensor, " keys"], counts: Int[Tensor, " keys"]) -> Run:
    """Return a run of sorted distinct keys and their counts; on the CPU the tensors are copied when the run grows."""
    return (HostRun if keys.device.type == "cpu" else DeviceRun)(keys, counts)


class HostRun:
    """Run in CPU memory that grows in place, so that merging needs no second copy of the longer run."""

    def __init__(self, keys: Tensor, counts: Tensor) -> None:
        self.keys, self.counts = keys.numpy(), counts.numpy()

    def __len__(self) -> int:
        return len(self.keys)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return keys and counts as views. While such a view exists, the run is copied before it grows."""
        return torch.from_numpy(self.keys), torch.from_numpy(self.counts)

    def absorb(self, other: HostRun) -> None:
        """See `Run`."""
        num_own, length = len(self), len(self) + len(other)
        self._resize(length)
        stayed, merged_from = self._merge_from_the_back(num_own, other)
        # Keys present in both runs leave a gap between the untouched entries and the merged ones: close it.
        gap = merged_from - stayed
        if gap:
            for start in range(merged_from, length, BLOCK):
                part = slice(start, min(start + BLOCK, length))
                moved = slice(part.start - gap, part.stop - gap)
                self.keys[moved], self.counts[moved] = self.keys[part], self.counts[part]
            self._resize(length - gap)

    def _merge_from_the_back(self, num_own: int, other: HostRun) -> tuple[int, int]:
        """Merge block by block from the end, so that no entry is overwritten before it is read; return start and end of
        the gap.
        """
        num_other, free_until = len(other), len(self)
        while num_other:
            blocks: list[tuple[csr_array, csr_array]] = []
            while num_other and len(blocks) < torch.get_num_threads():
                cut = _cut(self.keys[:num_own], other.keys[:num_other])
                own, more = (int(keys.searchsorted(cut)) for keys in (self.keys[:num_own], other.keys[:num_other]))
                blocks.append((_sparse_row(self, own, num_own), _sparse_row(other, more, num_other)))
                num_own, num_other = own, more
            # A run is a sparse row (sorted indices and values), and SciPy adds two of these in one pass.
            for block in _in_threads(lambda rows: rows[0] + rows[1], blocks):
                part = slice(free_until - block.nnz, free_until)
                self.keys[part], self.counts[part] = block.indices, block.data
                free_until = part.start
        return num_own, free_until

    def _resize(self, length: int) -> None:
        for name in ("keys", "counts"):
            try:
                getattr(self, name).resize(length)  # in place
            except ValueError:  # NumPy refuses if it does not own the memory or a view exists
                larger, kept = np.empty(length, np.int64), getattr(self, name)[:length]
                larger[: len(kept)] = kept
                setattr(self, name, larger)


class DeviceRun:
    """Run on an accelerator, where the fastest way to merge is to sort the concatenation."""

    def __init__(self, keys: Tensor, counts: Tensor) -> None:
        self.keys, self.counts = keys, counts

    def __len__(self) -> int:
        return len(self.keys)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return keys and counts."""
        return self.keys, self.counts

    def absorb(self, other: DeviceRun) -> None:
        """See `Run`."""
        keys, order = torch.cat([self.keys, other.keys]).sort()
        self.keys, position = keys.unique_consecutive(return_inverse=True)
        counts = torch.cat([self.counts, other.counts])[order]
        self.counts = torch.zeros_like(self.keys).index_add_(0, position, counts)


def _cut(own: np.ndarray, other: np.ndarray) -> int:
    """Return the lowest key such that at most `BLOCK` entries of each list are above or equal to it."""
    return max(int(keys[-BLOCK]) if len(keys) > BLOCK else np.iinfo(np.int64).min for keys in (own, other))


def _sparse_row(run: HostRun, start: int, end: int) -> csr_array:
    row = csr_array((1, np.iinfo(np.int64).max), dtype=np.int64)
    row.indices, row.data, row.indptr = run.keys[start:end], run.counts[start:end], np.array([0, end - start])
    row.has_canonical_format = True  # sorted and distinct, so SciPy need not check
    return row


def _in_threads(function, arguments) -> list:
    """Map with one thread per argument; NumPy and SciPy release the interpreter lock."""
    if len(arguments) == 1:
        return [function(arguments[0])]
    return list(_pool(len(arguments)).map(function, arguments))


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads)
