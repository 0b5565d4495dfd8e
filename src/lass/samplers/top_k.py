"""Ancestral sampling among the k best pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lass.artifacts import register
from lass.errors import check_number
from lass.samplers.drawing import check_settings, draw_among
from lass.samplers.generators import MixtureGenerators
from lass.samplers.protocol import Choice, Posterior


@register
@dataclass(frozen=True)
class TopK:
    """Draws every pair from the k most probable ones of its position.

    Args:
        num_candidates: independent draws per mixture.
        k: how many pairs are kept; never more than k, also where several are equally probable.
        temperature: below 1 sharpens the posterior of each position, above 1 flattens it; scores are not tempered.

    Source: LASS (arXiv:2301.08562), Table 3, "Top-k"; Kool, van Hoof and Welling 2020.
    """

    independent: ClassVar[bool] = True  # no candidate looks at another

    num_candidates: int = 512
    k: int = 32
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)
        check_number("k of TopK", self.k, at_least=1, at_most=2**16, whole=True)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See Sampler."""
        best = posterior.best(self.k)
        return draw_among(best, best.log_posterior / self.temperature, scores, generator.uniform(self.num_candidates))
