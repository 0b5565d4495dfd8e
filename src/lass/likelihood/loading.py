"""A likelihood from a file, whichever kind it holds."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lass.artifacts import load_tensors
from lass.errors import LassError
from lass.likelihood.counts import SparseCounts
from lass.likelihood.latents import LIKELIHOOD, MOMENTS, LatentLikelihood, LatentMoments
from lass.likelihood.protocol import Likelihood
from lass.likelihood.sparse import SparseLikelihood


def load_likelihood(
    path: str | Path, smoothing: float = 0.0, codebook: Float[Tensor, "num_codes dim"] | None = None
) -> Likelihood:
    """The likelihood in a file: as it was saved, or made of counts or of moments.

    Args:
        path: of a likelihood of codes or of latents, or of what `make count` wrote.
        smoothing: of counts, see `SparseCounts.likelihood`.
        codebook: the codec's vectors, for counts and moments.

    Raises:
        LassError: if the file is missing, damaged, or neither; or smoothing is asked for where counts are needed.
    """
    _, metadata = load_tensors(path, "likelihood")  # mapped into memory: nothing is read twice
    kind = metadata.get("kind")
    if kind == "counts":
        return SparseCounts.load(path).likelihood(smoothing, codebook)
    if smoothing:
        raise LassError(f"Smoothing needs counts, but {path} holds something else: name the file of the counts.")
    if kind == MOMENTS:
        if codebook is None:
            raise LassError(f"{path} holds {MOMENTS}, which need the codec's codebook; this codec has none to give.")
        return LatentMoments.load(path).likelihood(codebook)
    return LatentLikelihood.load(path) if kind == LIKELIHOOD else SparseLikelihood.load(path)
