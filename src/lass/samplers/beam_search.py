"""Beam search for the most probable sequences."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lass.artifacts import register
from lass.samplers.drawing import check_settings, gather_rows
from lass.samplers.generators import MixtureGenerators
from lass.samplers.protocol import Choice, Posterior


@register
@dataclass(frozen=True)
class BeamSearch:
    """Keep the partial sequences with the highest log posterior; exact with at least as many beams as sequences.

    If sources share a prior and a class and the likelihood is symmetric, all orders of their sequences have equal
    scores. Only one order is kept, so that all beams are distinct separations. With more than two sources the tuples
    that extend a beam are themselves found by a search with max(num_candidates, 64) beams over the sources.

    Args:
        num_candidates: Number of beams per mixture. While fewer partial sequences exist, the remaining beams have score
            −inf.
        temperature: Without effect, because the ranking of the beams does not depend on it; accepted so that samplers
            are interchangeable in configs.

    Source: LASS (arXiv:2301.08562), section "Autoregressive Models" and Table 3, "Beam Search"; Reddy et al. 1977.
    """

    num_candidates: int = 100
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See `Sampler`."""
        best = posterior.best(
            self.num_candidates, canonical=True
        )  # a beam has at most num_candidates children among the new beams
        extended = (scores[..., None] + best.log_posterior).flatten(1)
        scores, chosen = extended.topk(self.num_candidates, dim=1)
        return Choice(chosen // self.num_candidates, gather_rows(best.codes.flatten(1, 2), chosen), scores)
