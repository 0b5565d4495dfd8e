"""LASS: source separation with autoregressive priors that are trained on single sources only.

Source: Postolache et al., "Latent Autoregressive Source Separation", AAAI 2023 (arXiv:2301.08562).
"""

from lass.data.images.files import read_image, write_image
from lass.errors import LassError
from lass.likelihood import SparseCounts, SparseLikelihood
from lass.separation import SeparationResult, Separator, separate_codes

__all__ = [
    "LassError",
    "SeparationResult",
    "Separator",
    "SparseCounts",
    "SparseLikelihood",
    "read_image",
    "separate_codes",
    "write_image",
]
