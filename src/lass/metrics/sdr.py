"""Signal-to-distortion ratio (SDR) of BSS Eval version 4, as in museval, parallel over mixtures."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from lass.metrics.bss_eval import median_sdr_of_mixture

FRAME_SECONDS = 1.0  # museval's default for window and hop


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
        scores = (
            list(_pool().map(median_sdr_of_mixture, jobs))
            if len(jobs) > 1
            else [median_sdr_of_mixture(job) for job in jobs]
        )
    except BrokenProcessPool:
        _pool.cache_clear()
        scores = [median_sdr_of_mixture(job) for job in jobs]
    return torch.from_numpy(np.stack(scores)).float().to(estimates.device)


@cache
def _pool() -> ProcessPoolExecutor:
    # Spawned, because forking a process with threads is unsafe. Cached, because each worker imports SciPy.
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    num_processes = max(1, (os.cpu_count() or 1) // ranks)
    return ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), threadpool_limits, (1,))
