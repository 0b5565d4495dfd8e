"""Metrics of codebook usage, reconstructions and separations."""

from lass.metrics.code_usage import CodeUsage
from lass.metrics.features import ImageFeatures
from lass.metrics.permutation import best_permutation
from lass.metrics.psnr import psnr
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
    "spectral_distance",
]
