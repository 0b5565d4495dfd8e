"""Ancestral sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lass.artifacts import register
from lass.samplers.drawing import check_settings, unchanged_parents
from lass.samplers.generators import MixtureGenerators
from lass.samplers.protocol import Choice, Posterior


@register
@dataclass(frozen=True)
class Ancestral:
    """Draws every pair from the posterior of its position.

    Args:
        num_candidates: independent draws per mixture, the paper's batch of 512.
        temperature: below 1 sharpens the posterior of each position, above 1 flattens it; scores are not tempered.

    Source: LASS (arXiv:2301.08562), Table 3, "Ancestral Sampl.". This is not a draw from the posterior of the whole
    sequence, because every position is normalised by itself; see SequentialMonteCarlo.
    """

    independent: ClassVar[bool] = True  # no candidate looks at another

    num_candidates: int = 512
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See Sampler."""
        parents = unchanged_parents(scores, self.num_candidates)
        drawn = posterior.draw(parents, generator.uniform(self.num_candidates), self.temperature)
        return Choice(parents, drawn.first, drawn.second, scores.gather(1, parents) + drawn.log_posterior)
