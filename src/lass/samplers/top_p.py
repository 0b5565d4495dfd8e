"""Ancestral sampling among the fewest pairs that hold most of the probability."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lass.artifacts import register
from lass.errors import LassError
from lass.samplers.drawing import check_settings, draw_among
from lass.samplers.generators import MixtureGenerators
from lass.samplers.protocol import Choice, Posterior

FIRST_TRY = 64  # best pairs looked at; four times as many while they do not hold enough probability


@register
@dataclass(frozen=True)
class TopP:
    """Draws every pair from the most probable ones of its position that together reach the probability p.

    Args:
        num_candidates: independent draws per mixture.
        p: in (0, 1]. A pair is kept while those more probable hold less than p, so that at least one is.
        temperature: below 1 sharpens the posterior of each position, above 1 flattens it, before pairs are kept; scores
            are not tempered.

    Source: Holtzman et al. 2020 ("nucleus sampling"), here over pairs of codes.
    """

    num_candidates: int = 512
    p: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self.num_candidates, self.temperature)
        if not 0 < self.p <= 1:
            raise LassError(f"TopP needs a probability p in (0, 1], got {self.p}.")

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """See Sampler."""
        log_normalizer = posterior.log_normalizer(self.temperature)[..., None]
        k = min(FIRST_TRY, posterior.num_pairs)
        while True:
            best = posterior.best(k)
            log_weights = best.log_posterior / self.temperature
            mass = (log_weights - log_normalizer).exp().cumsum(-1)
            if k == posterior.num_pairs or not (mass[..., -1] < self.p).any():
                break
            k = min(4 * k, posterior.num_pairs)
        mass_before = torch.nn.functional.pad(mass[..., :-1], (1, 0))
        kept = log_weights.masked_fill(mass_before >= self.p, -torch.inf)
        return draw_among(best, kept, scores, generator.uniform(self.num_candidates))
