"""SDR of one mixture by museval. This module and what it imports need no torch, so that worker processes start fast."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from lass.errors import LassError

INAUDIBLE = 1e-8  # fraction of full scale
LIMIT_DB = 100.0  # bound on |score|: an infinite score would make the mean over mixtures infinite


def median_sdr_of_mixture(job: tuple[np.ndarray, np.ndarray, int]) -> np.ndarray:
    """Median SDR in dB of each source, (sources,); the job is (sources, estimates, frame length in samples)."""
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
