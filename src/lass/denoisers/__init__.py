"""Denoisers: expected clean sources given noisy ones, and the scores that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from lass.artifacts import load_artifact
from lass.denoisers.density import DensityDenoiser
from lass.denoisers.glow import GlowDenoiser
from lass.denoisers.protocol import Denoiser, score
from lass.denoisers.trainable import TrainableDenoiser
from lass.denoisers.unet import UNetDenoiser
from lass.denoisers.wavenet import WaveNetDenoiser

__all__ = [
    "Denoiser",
    "DensityDenoiser",
    "GlowDenoiser",
    "TrainableDenoiser",
    "UNetDenoiser",
    "WaveNetDenoiser",
    "load_denoiser",
    "score",
]


def load_denoiser(folder: str | Path) -> Denoiser:
    """Load a denoiser of any class from its folder; see `lass.artifacts.load_artifact`."""
    return cast(Denoiser, load_artifact(folder, "denoiser"))
