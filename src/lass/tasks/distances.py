"""Fréchet distances of a separation run, as requested by its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from lass.artifacts import load_artifact
from lass.errors import LassError
from lass.metrics import ImageFeatures
from lass.metrics.frechet import (
    INCEPTION_URL,
    FrechetDistances,
    InceptionFeatures,
    find_inception_weights,
    inception_cache,
)

#: Names of the sets of images whose Fréchet distance to the sources is computed, in the order of `SCORED`; the last one
#: needs a codec.
SETS = ("estimates", "mixture", "reconstruction")


def make_distances(
    fid: bool, inception_weights: str | None, features: str | None, sets: Sequence[str] = SETS
) -> nn.ModuleDict:
    """Return the requested Fréchet distances by name; the FID is omitted if Inception's weights are not available."""
    distances = nn.ModuleDict()
    if features:
        if not Path(features).is_dir():
            raise LassError(
                f"There are no features at {features}: train some, e.g. with `make train-features DATASET=celeba`, and "
                "name runs/celeba/features/features with --model.features, or do without: --model.features=null."
            )
        distances["frechet_small"] = FrechetDistances(cast(ImageFeatures, load_artifact(features, "features")), sets)
    if inception_weights and not fid:
        raise LassError("Inception weights were named, but no FID was requested: set --model.fid=true.")
    if fid and (weights := find_inception_weights(inception_weights)):
        distances["fid"] = FrechetDistances(InceptionFeatures(weights), sets)
    elif fid:
        rank_zero_info(
            f"There will be no FID: Inception's weights are not at {inception_cache()}. Download {INCEPTION_URL} to "
            "there, or name the file with --model.inception_weights."
        )
    return distances
