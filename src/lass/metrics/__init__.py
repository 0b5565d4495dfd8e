"""How good codes, reconstructions and separations are."""

from lass.metrics.code_usage import CodeUsage
from lass.metrics.features import ImageFeatures
from lass.metrics.permutation import best_permutation
from lass.metrics.psnr import psnr
from lass.metrics.summary import MeanAndDeviation

__all__ = ["CodeUsage", "ImageFeatures", "MeanAndDeviation", "best_permutation", "psnr"]
