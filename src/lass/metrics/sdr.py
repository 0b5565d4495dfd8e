"""Signal-to-distortion ratio (SDR) of BSS Eval version 4, as in museval, parallel over mixtures."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from lass.errors import LassError

FRAME_SECONDS = 1.0  # museval's default for window and hop
INAUDIBLE = 1e-8  # fraction of full scale
LIMIT_DB = 100.0  # bound on |score|: an infinite score would make the mean over mixtures infinite


def median_sdr(
    estimates: Float[Tensor, "batch sources samples"], sources: Float[Tensor, "batch sources samples"], sample_rate: int
) -> Float[Tensor, "batch sources"]:
    """Median SDR of each estimate in dB, over frames of one second in which no source is silent.

    museval also drops frames with a silent estimate, for all sources of the mixture. Here such a frame has an SDR of
    0 dB, by definition, so that a method cannot hide failures by muting its estimates.

    Batches of several mixtures are computed in a pool of processes if possible. The pool is spawned, so a script needs
    the guard `if __name__ == "__main__":`.

    Args:
        estimates: Estimated mono signals in the order of `sources`, (batch, sources, samples).
        sources: True mono signals, (batch, sources, samples).
        sample_rate: Sample rate in Hz.

    Returns:
        Median SDR in dB, (batch, sources), within ±`LIMIT_DB`; NaN if every frame has a silent source.

    Source: Stöter, Liutkus and Ito 2018 (arXiv:1804.06267); Vincent et al. 2006.
    """
    frame = round(FRAME_SECONDS * sample_rate)
    jobs = [
        (reference.double().cpu().numpy(), estimate.double().cpu().numpy(), frame)
        for reference, estimate in zip(sources, estimates, strict=True)
    ]
    try:
        scores = list(_pool().map(_median_sdr, jobs)) if len(jobs) > 1 else [_median_sdr(job) for job in jobs]
    except BrokenProcessPool:
        _pool.cache_clear()
        scores = [_median_sdr(job) for job in jobs]
    return torch.from_numpy(np.stack(scores)).float().to(estimates.device)


def _median_sdr(job: tuple[np.ndarray, np.ndarray, int]) -> np.ndarray:
    reference, estimate, frame = job
    if not reference.any(1).all():  # museval raises an error if a whole source is silent
        return np.full(len(reference), np.nan)
    estimate = _audible(estimate, frame)
    sdr = museval_metrics().bss_eval(reference[..., None], estimate[..., None], window=frame, hop=frame)[0]
    sdr = np.clip(sdr, -LIMIT_DB, LIMIT_DB)  # the SDR of a perfect estimate is infinite
    return np.array([np.nan if np.isnan(row).all() else np.nanmedian(row) for row in sdr])


def _audible(estimate: np.ndarray, frame: int) -> np.ndarray:
    """Copy of an estimate with one inaudible non-zero sample in each frame of zeros, which museval would drop."""
    estimate = estimate.copy()
    for start in range(0, estimate.shape[1], frame):
        part = estimate[:, start : start + frame]
        part[~part.any(1), part.shape[1] // 2] = INAUDIBLE
    return estimate


@cache
def museval_metrics() -> ModuleType:
    """Import `museval.metrics` without the package `museval`, which imports a reader of MUSDB that requires ffmpeg."""
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise LassError("SDR needs museval: pip install 'lass[audio]'.")
    file = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("museval.metrics", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _pool() -> ProcessPoolExecutor:
    # Spawned, because forking a process with threads is unsafe. Cached, because each worker imports SciPy.
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    num_processes = max(1, (os.cpu_count() or 1) // ranks)
    return ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), threadpool_limits, (1,))
