"""A likelihood from a file, whichever kind it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lass.artifacts import fingerprint, load_tensors
from lass.errors import LassError
from lass.likelihood.counts import SparseCounts
from lass.likelihood.latents import LIKELIHOOD, MOMENTS, LatentLikelihood, LatentMoments
from lass.likelihood.protocol import Likelihood
from lass.likelihood.sparse import SparseLikelihood


def load_likelihood(
    path: str | Path,
    smoothing: float = 0.0,
    codebook: Float[Tensor, "num_codes dim"] | None = None,
    keep: bool = False,
) -> Likelihood:
    """The likelihood in a file: as it was saved, or made of counts or of moments.

    Args:
        path: of a likelihood of codes or of latents, or of what `make count` wrote.
        smoothing: of counts, see `SparseCounts.likelihood`.
        codebook: the codec's vectors, for counts and moments.
        keep: write a likelihood that was made of counts or moments beside their file, as `<name>.likelihood-<key>`, and
            read it from there the next time. The key identifies the counts, the smoothing and the codebook.

    Raises:
        LassError: if the file is missing, damaged, or neither; or smoothing is asked for where counts are needed.
    """
    path = Path(path)
    _, metadata = load_tensors(path, "likelihood", verify=False)  # mapped into memory: nothing is read twice
    kind = metadata.get("kind")
    if smoothing and kind != "counts":
        raise LassError(f"Smoothing needs counts, but {path} holds something else: name the file of the counts.")
    if kind not in ("counts", MOMENTS):
        return LatentLikelihood.load(path) if kind == LIKELIHOOD else SparseLikelihood.load(path)
    if kind == MOMENTS and codebook is None:
        raise LassError(f"{path} holds {MOMENTS}, which need the codec's codebook; this codec has none to give.")
    made_of = (metadata.get("checksum"), smoothing, None if codebook is None else fingerprint({"codebook": codebook}))
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]
    kept = path.with_name(f"{path.stem}.likelihood-{key}.safetensors")
    if keep and kept.is_file():
        try:
            return load_likelihood(kept)
        except LassError:  # damaged, or of another version: it is made again
            pass
    likelihood: SparseLikelihood | LatentLikelihood
    if kind == MOMENTS and codebook is not None:
        likelihood = LatentMoments.load(path).likelihood(codebook)
    else:
        likelihood = SparseCounts.load(path).likelihood(smoothing, codebook)
    if not keep:
        return likelihood
    try:
        for outdated in path.parent.glob(f"{path.stem}.likelihood-*.safetensors"):
            outdated.unlink()
        likelihood.save(kept)
    except (OSError, LassError):  # a folder that cannot be written, or a full disk
        return likelihood
    return load_likelihood(kept)
