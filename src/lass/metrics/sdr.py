"""Signal-to-distortion ratio of BSS Eval version 4, as museval computes it, on all cores."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Sequence
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

FRAME_SECONDS = 1.0  # museval's default for window and hop


def median_sdr(
    estimates: Float[Tensor, "batch sources samples"], sources: Float[Tensor, "batch sources samples"], sample_rate: int
) -> Float[Tensor, "batch sources"]:
    """SDR of each estimate in dB: the median over frames of one second, silent frames left out.

    Args:
        estimates: in the order of `sources`; of mono signals.
        sources: the true ones.
        sample_rate: in Hz.

    Returns:
        Shape (batch, sources); NaN where every frame is silent in some source or estimate.

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
    if not (reference.any(1).all() and estimate.any(1).all()):  # museval raises where a whole signal is silent
        return np.full(len(reference), np.nan)
    sdr = museval_metrics().bss_eval(reference[..., None], estimate[..., None], window=frame, hop=frame)[0]
    return np.array([np.nan if np.isnan(row).all() else np.nanmedian(row) for row in sdr])


@cache
def museval_metrics() -> ModuleType:
    """`museval.metrics` without its package: that imports a reader of MUSDB, which refuses to start without ffmpeg."""
    folder: Sequence[str] = importlib.util.find_spec("museval").submodule_search_locations
    spec = importlib.util.spec_from_file_location("museval.metrics", Path(folder[0]) / "metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _pool() -> ProcessPoolExecutor:
    # Not forked: the parent has threads. Started once, because each process has to import SciPy.
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    num_processes = max(1, (os.cpu_count() or 1) // ranks)
    return ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), threadpool_limits, (1,))
