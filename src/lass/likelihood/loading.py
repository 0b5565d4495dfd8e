"""Load a likelihood of any kind from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lass.artifacts import fingerprint, load_tensors
from lass.errors import LassError
from lass.likelihood.additive import ADDITIVE, AdditiveLikelihood
from lass.likelihood.additive_moments import MOMENTS as ADDITIVE_MOMENTS
from lass.likelihood.additive_moments import AdditiveMoments
from lass.likelihood.chain import CHAIN, ChainLikelihood
from lass.likelihood.counts import SparseCounts
from lass.likelihood.latents import LIKELIHOOD, LatentLikelihood
from lass.likelihood.log_sum import LOG_SUM, LogSumLikelihood
from lass.likelihood.log_sum_moments import MOMENTS as LOG_SUM_MOMENTS
from lass.likelihood.log_sum_moments import LogSumMoments
from lass.likelihood.moments import MOMENTS, LatentMoments
from lass.likelihood.protocol import Likelihood
from lass.likelihood.sparse import SparseLikelihood

LIKELIHOODS: dict[
    str, type[LatentLikelihood] | type[AdditiveLikelihood] | type[LogSumLikelihood] | type[ChainLikelihood]
] = {
    CHAIN: ChainLikelihood,
    LIKELIHOOD: LatentLikelihood,
    ADDITIVE: AdditiveLikelihood,
    LOG_SUM: LogSumLikelihood,
}
MOMENTS_OF: dict[str, type[LatentMoments] | type[AdditiveMoments] | type[LogSumMoments]] = {
    MOMENTS: LatentMoments,
    ADDITIVE_MOMENTS: AdditiveMoments,
    LOG_SUM_MOMENTS: LogSumMoments,
}


def load_likelihood(
    path: str | Path,
    smoothing: float = 0.0,
    codebook: Float[Tensor, "num_codes dim"] | None = None,
    keep: bool = False,
) -> Likelihood:
    """Load a likelihood from a file, or compute it from a file of counts or latent moments.

    Args:
        path: Path of a saved likelihood, of counts or of latent moments.
        smoothing: Pseudo-count for counts, see `SparseCounts.likelihood`.
        codebook: The codec's vectors, for counts and moments.
        keep: Whether to save a computed likelihood beside its source, as `<name>.likelihood-<key>.safetensors`, and to
            load it from there the next time. The key identifies the source, the smoothing and the codebook.

    Raises:
        LassError: if the file is missing, damaged, or of another kind; or smoothing is given for anything other than
            counts.
    """
    path = Path(path)
    _, metadata = load_tensors(path, "likelihood", verify=False)  # memory-mapped, so no tensor is read twice
    kind = metadata.get("kind")
    if smoothing and kind != "counts":
        raise LassError(f"Smoothing needs counts, but {path} holds something else: name the file of the counts.")
    if kind not in ("counts", *MOMENTS_OF):
        return LIKELIHOODS.get(str(kind), SparseLikelihood).load(path)
    if kind in MOMENTS_OF and codebook is None:
        raise LassError(f"{path} holds {kind}, which need the codec's codebook; this codec has none to give.")
    made_of = (metadata.get("checksum"), smoothing, None if codebook is None else fingerprint({"codebook": codebook}))
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]
    kept = path.with_name(f"{path.stem}.likelihood-{key}.safetensors")
    if keep and kept.is_file():
        try:
            return load_likelihood(kept)
        except LassError:  # damaged, or of another version: compute it again
            pass
    likelihood: SparseLikelihood | LatentLikelihood | AdditiveLikelihood | LogSumLikelihood
    if kind in MOMENTS_OF and codebook is not None:
        likelihood = MOMENTS_OF[kind].load(path).likelihood(codebook)
    else:
        likelihood = SparseCounts.load(path).likelihood(smoothing, codebook)
    if not keep:
        return likelihood
    try:
        for outdated in path.parent.glob(f"{path.stem}.likelihood-*.safetensors"):
            outdated.unlink()
        likelihood.save(kept)
    except (OSError, LassError):  # read-only folder or full disk
        return likelihood
    return load_likelihood(kept)


def load_likelihoods(
    paths: Sequence[str | Path], smoothing: float = 0.0, codebook: Float[Tensor, "num_codes dim"] | None = None
) -> Likelihood:
    """Load the likelihood in a file, or the chain of those in the files of counts of 2, 3, … sources.

    Args:
        paths: One file; or one for each source after the first, in order.
        smoothing, codebook: See `load_likelihood`; computed likelihoods are kept beside the files.

    Raises:
        LassError: as `load_likelihood`, or if the files of a chain hold anything other than counts.
    """
    if not paths:
        raise LassError("likelihood must name a file of counts, of moments or of a likelihood, not nothing.")
    loaded = [load_likelihood(path, smoothing, codebook, keep=True) for path in paths]
    if len(loaded) == 1:
        return loaded[0]
    tables = [each for each in loaded if isinstance(each, SparseLikelihood)]
    if len(tables) < len(loaded):
        raise LassError(f"A chain of likelihoods is made of files of counts, but got {', '.join(map(str, paths))}.")
    return ChainLikelihood(tables)
