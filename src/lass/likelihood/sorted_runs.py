"""Sorted runs: distinct keys in ascending order, each with its count. Runs can be merged into each other."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from torch import Tensor

BLOCK = 2**17  # entries that are merged at once


@runtime_checkable
class Run(Protocol):
    """Distinct int64 keys in ascending order and their counts."""

    def __len__(self) -> int:
        """How many keys."""

    def absorb(self, other: Any) -> None:
        """Merge another run of the same class into this one; counts of the same key are added."""

    def tensors(self) -> tuple[Int[Tensor, " keys"], Int[Tensor, " keys"]]:
        """Keys and counts."""


def collapse(keys: Int[Tensor, " keys"]) -> list[Run]:
    """Sort keys (in place where they lie on the CPU) and count how often each occurs: a run per thread."""
    if keys.device.type != "cpu":
        return [DeviceRun(*keys.sort().values.unique_consecutive(return_counts=True))]

    def collapse_part(part: Tensor) -> Run:
        part.numpy().sort()  # several times as fast as torch's
        return HostRun(*part.unique_consecutive(return_counts=True))

    return _in_threads(collapse_part, keys.chunk(torch.get_num_threads()))


def run_of(keys: Int[Tensor, " keys"], counts: Int[Tensor, " keys"]) -> Run:
    """A run of what was sorted and counted before; the tensors are not copied before they have to be."""
    return (HostRun if keys.device.type == "cpu" else DeviceRun)(keys, counts)


class HostRun:
    """A run in memory that grows in place: merging needs no second copy of the longer run."""

    def __init__(self, keys: Tensor, counts: Tensor) -> None:
        self.keys, self.counts = keys.numpy(), counts.numpy()

    def __len__(self) -> int:
        return len(self.keys)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Views; while somebody holds one, the run is copied before it grows."""
        return torch.from_numpy(self.keys), torch.from_numpy(self.counts)

    def absorb(self, other: HostRun) -> None:
        """See Run."""
        num_own, length = len(self), len(self) + len(other)
        self._resize(length)
        stayed, merged_from = self._merge_from_the_back(num_own, other)
        # Equal keys leave a gap between what stayed and what was merged.
        gap = merged_from - stayed
        if gap:
            for start in range(merged_from, length, BLOCK):
                part = slice(start, min(start + BLOCK, length))
                moved = slice(part.start - gap, part.stop - gap)
                self.keys[moved], self.counts[moved] = self.keys[part], self.counts[part]
            self._resize(length - gap)

    def _merge_from_the_back(self, num_own: int, other: HostRun) -> tuple[int, int]:
        """Block by block, so that nothing is overwritten before it was read; returns where the gap begins and ends."""
        num_other, free_until = len(other), len(self)
        while num_other:
            blocks: list[tuple[csr_array, csr_array]] = []
            while num_other and len(blocks) < torch.get_num_threads():
                cut = _cut(self.keys[:num_own], other.keys[:num_other])
                own, more = (int(keys.searchsorted(cut)) for keys in (self.keys[:num_own], other.keys[:num_other]))
                blocks.append((_sparse_row(self, own, num_own), _sparse_row(other, more, num_other)))
                num_own, num_other = own, more
            # Two sorted lists of indices with values are two sparse rows, and SciPy adds these in one pass.
            for block in _in_threads(lambda rows: rows[0] + rows[1], blocks):
                part = slice(free_until - block.nnz, free_until)
                self.keys[part], self.counts[part] = block.indices, block.data
                free_until = part.start
        return num_own, free_until

    def _resize(self, length: int) -> None:
        for name in ("keys", "counts"):
            try:
                getattr(self, name).resize(length)  # grows where it lies
            except ValueError:  # NumPy refuses if the memory is not its own or somebody holds a view
                larger, kept = np.empty(length, np.int64), getattr(self, name)[:length]
                larger[: len(kept)] = kept
                setattr(self, name, larger)


class DeviceRun:
    """A run on an accelerator, where sorting again is the fastest way to merge."""

    def __init__(self, keys: Tensor, counts: Tensor) -> None:
        self.keys, self.counts = keys, counts

    def __len__(self) -> int:
        return len(self.keys)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Keys and counts."""
        return self.keys, self.counts

    def absorb(self, other: DeviceRun) -> None:
        """See Run."""
        keys, order = torch.cat([self.keys, other.keys]).sort()
        self.keys, position = keys.unique_consecutive(return_inverse=True)
        counts = torch.cat([self.counts, other.counts])[order]
        self.counts = torch.zeros_like(self.keys).index_add_(0, position, counts)


def _cut(own: np.ndarray, other: np.ndarray) -> int:
    """The lowest key that can be merged with all above it while neither list gives more than a block."""
    return max(int(keys[-BLOCK]) if len(keys) > BLOCK else np.iinfo(np.int64).min for keys in (own, other))


def _sparse_row(run: HostRun, start: int, end: int) -> csr_array:
    row = csr_array((1, np.iinfo(np.int64).max), dtype=np.int64)
    row.indices, row.data, row.indptr = run.keys[start:end], run.counts[start:end], np.array([0, end - start])
    row.has_canonical_format = True  # sorted and distinct: spares a look
    return row


def _in_threads(function, arguments) -> list:
    """Map in as many threads as there are arguments; NumPy and SciPy let go of Python's lock."""
    if len(arguments) == 1:
        return [function(arguments[0])]
    return list(_pool(len(arguments)).map(function, arguments))


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads)
