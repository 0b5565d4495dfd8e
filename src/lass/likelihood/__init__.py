"""Likelihoods p(mixture | source codes): counted for the mixture's codes, or fitted to its unquantised latents."""

from lass.likelihood.counts import SparseCounts
from lass.likelihood.latents import LatentLikelihood, LatentMoments
from lass.likelihood.loading import load_likelihood
from lass.likelihood.protocol import Likelihood, Pairs
from lass.likelihood.sparse import SparseLikelihood

__all__ = [
    "LatentLikelihood",
    "LatentMoments",
    "Likelihood",
    "Pairs",
    "SparseCounts",
    "SparseLikelihood",
    "load_likelihood",
]
