"""Greedy decoding: the most probable pair at every position."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lass.artifacts import register
from lass.samplers.drawing import check_settings
from lass.samplers.generators import MixtureGenerators
from lass.samplers.protocol import Choice, Posterior


@register
@dataclass(frozen=True)
class Greedy:
    """Choose the most probable pair at every position; one candidate.

    Args:
        temperature: Without effect, because the most probable pair does not depend on it; accepted so that samplers are
            interchangeable in configs.

    Source: LASS (arXiv:2301.08562), Table 3, "Greedy".
    """

    temperature: float = 1.0
    num_candidates: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See `Sampler`."""
        best = posterior.best(1)
        only_candidate = torch.zeros_like(scores, dtype=torch.long)
        return Choice(only_candidate, best.codes[..., 0, :], scores + best.log_posterior[..., 0])
