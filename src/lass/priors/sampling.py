"""Ancestral sampling from a prior, without a likelihood."""

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
    """Draw sequences from a prior by ancestral sampling: each code from p(next code | past codes).

    Args:
        prior: Any prior.
        num_sequences: Number of sequences.
        num_positions: Length of each sequence.
        condition: Class of each sequence, for class-conditional priors.
        generator: Random number generator on the prior's device; default torch's.
    """
    state = prior.start(num_sequences, condition)
    codes: list[Tensor] = []
    for _ in range(num_positions):
        log_prior = prior.step(state, codes[-1] if codes else None)
        codes.append(torch.multinomial(log_prior.exp(), 1, generator=generator)[:, 0])
    return torch.stack(codes, 1)
