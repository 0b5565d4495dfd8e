"""p(mixture code | source codes), counted."""

from lass.likelihood.counts import SparseCounts
from lass.likelihood.protocol import Likelihood, Pairs
from lass.likelihood.sparse import SparseLikelihood

__all__ = ["Likelihood", "Pairs", "SparseCounts", "SparseLikelihood"]
