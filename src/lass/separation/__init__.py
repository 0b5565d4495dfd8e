"""Source separation in code space: Algorithm 1, selection and refinement of its candidates, and the `Separator`."""

from lass.separation.algorithm import Candidates, separate_codes
from lass.separation.num_sources import num_sources_probabilities
from lass.separation.posterior_descent import PosteriorDescent
from lass.separation.refinement import (
    LatentDescent,
    LocalRefinement,
    NoRefinement,
    PosteriorRefinement,
    Refinement,
)
from lass.separation.result import SeparationResult
from lass.separation.selection import ClosestToMixture, HighestScore, Selection
from lass.separation.separator import Separator
from lass.separation.wiener import WienerFilter

__all__ = [
    "Candidates",
    "ClosestToMixture",
    "HighestScore",
    "LatentDescent",
    "LocalRefinement",
    "NoRefinement",
    "PosteriorDescent",
    "PosteriorRefinement",
    "Refinement",
    "Selection",
    "SeparationResult",
    "Separator",
    "WienerFilter",
    "num_sources_probabilities",
    "separate_codes",
]
