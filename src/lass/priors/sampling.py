"""Sequences of codes from a prior alone."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from lass.priors.protocol import Prior


@torch.no_grad()
def sample_codes(
    prior: Prior,
    num_sequences: int,
    num_positions: int,
    condition: Int[Tensor, " num_sequences"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "num_sequences num_positions"]:
    """Ancestral samples: each code from p(next code | past codes).

    Args:
        prior: any prior.
        num_sequences: how many.
        num_positions: length of each.
        condition: classes, for class-conditional priors.
        generator: of the randomness, on the prior's device; default torch's.
    """
    state = prior.start(num_sequences, condition)
    codes: list[Tensor] = []
    for _ in range(num_positions):
        log_prior = prior.step(state, codes[-1] if codes else None)
        codes.append(torch.multinomial(log_prior.exp(), 1, generator=generator)[:, 0])
    return torch.stack(codes, 1)
