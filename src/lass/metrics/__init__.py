"""Metrics of codebook usage, reconstructions and separations.

Names are imported when they are first used: the processes that compute SDR need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lass.metrics.code_usage import CodeUsage
    from lass.metrics.features import ImageFeatures
    from lass.metrics.improvement import si_sdr_improvement
    from lass.metrics.peak_snr import psnr
    from lass.metrics.permutation import best_permutation
    from lass.metrics.scoring import pairwise_scores, scoring_of
    from lass.metrics.sdr import median_sdr
    from lass.metrics.spectral import spectral_distance
    from lass.metrics.summary import MeanAndDeviation

__all__ = [
    "CodeUsage",
    "ImageFeatures",
    "MeanAndDeviation",
    "best_permutation",
    "median_sdr",
    "pairwise_scores",
    "psnr",
    "scoring_of",
    "si_sdr_improvement",
    "spectral_distance",
]

_MODULES = {
    "CodeUsage": "code_usage",
    "ImageFeatures": "features",
    "MeanAndDeviation": "summary",
    "best_permutation": "permutation",
    "median_sdr": "sdr",
    "pairwise_scores": "scoring",
    "psnr": "peak_snr",
    "scoring_of": "scoring",
    "si_sdr_improvement": "improvement",
    "spectral_distance": "spectral",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lass.metrics' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"lass.metrics.{_MODULES[name]}"), name)
    return value
