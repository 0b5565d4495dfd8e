"""Samplers, which choose pairs of source codes from the posterior of each position: one per file, one protocol."""

from lass.samplers.ancestral import Ancestral
from lass.samplers.beam_search import BeamSearch
from lass.samplers.generators import CandidateGenerators, MixtureGenerators
from lass.samplers.greedy import Greedy
from lass.samplers.protocol import Choice, Drawn, IndependentSampler, Posterior, Sampler
from lass.samplers.sequential_monte_carlo import SequentialMonteCarlo
from lass.samplers.top_k import TopK
from lass.samplers.top_p import TopP

__all__ = [
    "Ancestral",
    "BeamSearch",
    "CandidateGenerators",
    "Choice",
    "Drawn",
    "Greedy",
    "IndependentSampler",
    "MixtureGenerators",
    "Posterior",
    "Sampler",
    "SequentialMonteCarlo",
    "TopK",
    "TopP",
]
