"""Nucleus sampling: ancestral sampling among the fewest pairs that together have probability p."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lass.artifacts import register
from lass.errors import check_number
from lass.samplers.drawing import check_settings, unchanged_parents
from lass.samplers.generators import MixtureGenerators
from lass.samplers.protocol import Choice, Posterior


@register
@dataclass(frozen=True)
class TopP:
    """Draw every pair from the posterior of its position, truncated to the most probable pairs that together reach p.

    Args:
        num_candidates: Number of independent draws per mixture.
        p: Probability in (0, 1]. A pair is kept if all more probable pairs together have probability less than p, so
            that at least one is kept; of equally probable pairs either all are kept or none.
        temperature: The posterior of each position is raised to the power 1 / temperature before truncation: below 1
            sharpens it, above 1 flattens it. Scores are not tempered.

    Source: Holtzman et al. 2020 ("nucleus sampling"), here over pairs of codes.
    """

    independent: ClassVar[bool] = True  # candidates do not interact

    num_candidates: int = 512
    p: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)
        check_number("p of TopP", self.p, above=0, at_most=1)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See `Sampler`."""
        parents = unchanged_parents(scores, self.num_candidates)
        least_probable = posterior.nucleus(self.p, self.temperature)
        uniforms = generator.uniform(self.num_candidates, posterior.num_uniforms)
        drawn = posterior.draw(parents, uniforms, self.temperature, at_least=least_probable)
        return Choice(parents, drawn.codes, scores.gather(1, parents) + drawn.log_posterior)
