"""Top-k sampling: ancestral sampling among the k most probable pairs of each position."""

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
    """Draw every pair from the posterior of its position, truncated to the k most probable pairs.

    Args:
        num_candidates: Number of independent draws per mixture.
        k: Number of pairs that are kept; never more, also where several are equally probable.
        temperature: The posterior of each position is raised to the power 1 / temperature: below 1 sharpens it, above 1
            flattens it. Scores are not tempered.

    Source: LASS (arXiv:2301.08562), Table 3, "Top-k"; Kool, van Hoof and Welling 2020.
    """

    independent: ClassVar[bool] = True  # candidates do not interact

    num_candidates: int = 512
    k: int = 32
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)
        check_number("k of TopK", self.k, at_least=1, at_most=2**16, whole=True)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See `Sampler`."""
        best = posterior.best(self.k)
        return draw_among(best, best.log_posterior / self.temperature, scores, generator.uniform(self.num_candidates))
