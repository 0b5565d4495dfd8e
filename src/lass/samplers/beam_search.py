"""Beam search."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lass.artifacts import register
from lass.samplers.drawing import check_settings
from lass.samplers.generators import MixtureGenerators
from lass.samplers.protocol import Choice, Posterior


@register
@dataclass(frozen=True)
class BeamSearch:
    """Keeps the best-scoring beginnings, best first; exact when there are as many beams as sequences.

    Sources that share a prior, under a symmetric likelihood, have two orders with the same score; only one is kept, so
    that all beams are distinct separations.

    Args:
        num_candidates: beams per mixture. While there are fewer sequences than that, the rest have score −inf.
        temperature: taken like every sampler's, so that configs can swap them; the order of the beams is the same at
            any temperature.

    Source: LASS (arXiv:2301.08562), section "Autoregressive Models" and Table 3, "Beam Search"; Reddy et al. 1977.
    """

    num_candidates: int = 100
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See Sampler."""
        best = posterior.best(
            self.num_candidates, canonical=True
        )  # no beam can contribute more than all of the new ones
        extended = (scores[..., None] + best.log_posterior).flatten(1)
        scores, chosen = extended.topk(self.num_candidates, dim=1)
        first, second = (codes.flatten(1).gather(1, chosen) for codes in (best.first, best.second))
        return Choice(chosen // self.num_candidates, first, second, scores)
