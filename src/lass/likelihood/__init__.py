"""p(mixture code | source codes), counted."""

from lass.likelihood.counts import SparseCounts, load_likelihood
from lass.likelihood.protocol import Likelihood, Pairs
from lass.likelihood.sparse import SparseLikelihood

__all__ = ["Likelihood", "Pairs", "SparseCounts", "SparseLikelihood", "load_likelihood"]
