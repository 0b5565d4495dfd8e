"""Ancestral sampling among the fewest pairs that hold most of the probability."""

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
    """Draws every pair from the most probable ones of its position that together reach the probability p.

    Args:
        num_candidates: independent draws per mixture.
        p: in (0, 1]. A pair is kept while all that are more probable hold less than p, so that at least one is; of
            equally probable pairs all are kept or none.
        temperature: below 1 sharpens the posterior of each position, above 1 flattens it, before pairs are kept; scores
            are not tempered.

    Source: Holtzman et al. 2020 ("nucleus sampling"), here over pairs of codes.
    """

    independent: ClassVar[bool] = True  # no candidate looks at another

    num_candidates: int = 512
    p: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)
        check_number("p of TopP", self.p, above=0, at_most=1)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See Sampler."""
        parents = unchanged_parents(scores, self.num_candidates)
        least_probable = posterior.nucleus(self.p, self.temperature)
        uniforms = generator.uniform(self.num_candidates)
        drawn = posterior.draw(parents, uniforms, self.temperature, at_least=least_probable)
        return Choice(parents, drawn.first, drawn.second, scores.gather(1, parents) + drawn.log_posterior)
