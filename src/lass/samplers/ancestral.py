"""Ancestral sampling from the per-position posteriors."""

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
    """Draw every pair from the normalised posterior of its position.

    Args:
        num_candidates: Number of independent draws per mixture; 512 in the paper.
        temperature: The posterior of each position is raised to the power 1 / temperature: below 1 sharpens it, above 1
            flattens it. Scores are not tempered.

    Source: LASS (arXiv:2301.08562), Table 3, "Ancestral Sampl.". The sequences are not distributed by the posterior of
    whole sequences, because the posterior of every position is normalised separately; see `SequentialMonteCarlo`.
    """

    independent: ClassVar[bool] = True  # candidates do not interact

    num_candidates: int = 512
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See `Sampler`."""
        parents = unchanged_parents(scores, self.num_candidates)
        uniforms = generator.uniform(self.num_candidates, posterior.num_uniforms)
        drawn = posterior.draw(parents, uniforms, self.temperature)
        return Choice(parents, drawn.codes, scores.gather(1, parents) + drawn.log_posterior)
