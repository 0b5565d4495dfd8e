"""Likelihoods p(mixture | source codes): counted for the mixture's codes, or fitted to its unquantised latents."""

from lass.likelihood.additive import MAX_PAIRS, AdditiveLikelihood
from lass.likelihood.additive_moments import AdditiveMoments
from lass.likelihood.chain import ChainLikelihood
from lass.likelihood.counts import SparseCounts
from lass.likelihood.latents import LatentLikelihood
from lass.likelihood.loading import load_likelihood, load_likelihoods
from lass.likelihood.log_sum import LogSumLikelihood
from lass.likelihood.log_sum_moments import LogSumMoments
from lass.likelihood.moments import LatentMoments
from lass.likelihood.protocol import (
    CoverageLikelihood,
    Likelihood,
    MovableLikelihood,
    PairLikelihood,
    Pairs,
    SavableLikelihood,
    is_symmetric,
    needs_latents,
)
from lass.likelihood.sparse import SparseLikelihood

__all__ = [
    "MAX_PAIRS",
    "AdditiveLikelihood",
    "AdditiveMoments",
    "ChainLikelihood",
    "CoverageLikelihood",
    "LatentLikelihood",
    "LatentMoments",
    "Likelihood",
    "LogSumLikelihood",
    "LogSumMoments",
    "MovableLikelihood",
    "PairLikelihood",
    "Pairs",
    "SavableLikelihood",
    "SparseCounts",
    "SparseLikelihood",
    "is_symmetric",
    "load_likelihood",
    "load_likelihoods",
    "needs_latents",
]
