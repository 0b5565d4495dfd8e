"""Measurement of time, memory and the number of rows that a prior computes."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def cpu_seconds(function: Callable[[], Any]) -> float:
    """CPU time of one call, summed over threads; unlike wall time it hardly depends on other processes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def resident_bytes() -> int:
    """Resident memory of this process in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class PeakMemory:
    """Context manager that records peak resident memory, sampled every two milliseconds."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.peak = max(self.peak, resident_bytes())

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, resident_bytes())

    @property
    def added(self) -> int:
        """Peak minus the resident memory at the start, in bytes."""
        return self.peak - self.before


class LargestTensor(TorchDispatchMode):
    """Context manager that records the size in bytes of the largest tensor returned by any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self._paused = 0, False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager that suspends the recording."""
        self._paused = True
        yield
        self._paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self._paused:
            return result
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and not func.is_view:
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


class WatchedPrior:
    """Wrapper of a prior that counts the rows it computes and the cache entries it moves."""

    def __init__(self, prior) -> None:
        self.prior, self.num_codes = prior, prior.num_codes
        self.num_rows = self.num_moved = 0
        self.untold: LargestTensor | None = None  # recorder that is paused while the prior computes

    def _untold(self) -> contextlib.AbstractContextManager:
        return self.untold.paused() if self.untold else contextlib.nullcontext()

    def start(self, num_sequences: int, condition: torch.Tensor | None = None) -> Any:
        """See `Prior`."""
        with self._untold():
            return self.prior.start(num_sequences, condition)

    def step(self, state: Any, codes: torch.Tensor | None) -> torch.Tensor:
        """See `Prior`."""
        with self._untold():
            log_prior = self.prior.step(state, codes)
        self.num_rows += len(log_prior)
        return log_prior

    def select(self, state: Any, parents: torch.Tensor) -> Any:
        """See `Prior`."""
        before = state.cache.num_moved
        with self._untold():
            state = self.prior.select(state, parents)
        self.num_moved += state.cache.num_moved - before
        return state


@torch.no_grad()
def cached_passes(priors: list, num_sequences: int, num_positions: int) -> None:
    """Floor of the separation time: the cached forward passes of the priors, position by position."""
    for prior in priors:
        state = prior.start(num_sequences)
        prior.step(state, None)
        codes = torch.randint(prior.num_codes, (num_sequences,))
        for _ in range(num_positions - 1):
            prior.step(state, codes)


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Print a description and the elapsed time of a block to standard error."""
    start = time.perf_counter()
    print(f"  {what} …", end="", flush=True, file=sys.stderr)
    yield
    print(f" {time.perf_counter() - start:.1f} s", file=sys.stderr)
