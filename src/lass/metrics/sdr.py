"""Signal-to-distortion ratio of BSS Eval version 4, as museval computes it, on all cores."""

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
INAUDIBLE = 1e-8  # of full scale
LIMIT_DB = 100.0  # no score is further from 0: an infinite one would make the mean of all mixtures infinite


def median_sdr(
    estimates: Float[Tensor, "batch sources samples"], sources: Float[Tensor, "batch sources samples"], sample_rate: int
) -> Float[Tensor, "batch sources"]:
    """SDR of each estimate in dB: the median over frames of one second, without those in which a source is silent.

    museval also leaves out frames in which an estimate is silent, for all sources of the mixture. Here such a frame has
    the SDR that its definition gives, 0 dB, so that a method cannot lose its failures by muting them.

    Args:
        estimates: in the order of `sources`; of mono signals.
        sources: the true ones.
        sample_rate: in Hz.

    Returns:
        Shape (batch, sources), within ±`LIMIT_DB`; NaN where some source is silent in every frame.

    It runs in a pool of processes where that can be had: a script needs its `if __name__ == "__main__":` for it.

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
    if not reference.any(1).all():  # museval raises where a whole signal is silent
        return np.full(len(reference), np.nan)
    estimate = _audible(estimate, frame)
    sdr = museval_metrics().bss_eval(reference[..., None], estimate[..., None], window=frame, hop=frame)[0]
    sdr = np.clip(sdr, -LIMIT_DB, LIMIT_DB)  # a perfect estimate has an infinite one
    return np.array([np.nan if np.isnan(row).all() else np.nanmedian(row) for row in sdr])


def _audible(estimate: np.ndarray, frame: int) -> np.ndarray:
    """A copy in which frames of zeros have one sample far below anything that could be heard."""
    estimate = estimate.copy()
    for start in range(0, estimate.shape[1], frame):
        part = estimate[:, start : start + frame]
        part[~part.any(1), part.shape[1] // 2] = INAUDIBLE
    return estimate


@cache
def museval_metrics() -> ModuleType:
    """`museval.metrics` without its package: that imports a reader of MUSDB, which refuses to start without ffmpeg."""
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
    # Not forked: the parent has threads. Started once, because each process has to import SciPy.
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    num_processes = max(1, (os.cpu_count() or 1) // ranks)
    return ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), threadpool_limits, (1,))
