"""Randomness that belongs to a mixture, not to the batch it happens to be in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lass.devices.numerics import widest_float


class MixtureGenerators:
    """One independent random stream per mixture, seeded by (seed, index of the mixture).

    Numbers are drawn on the CPU and moved, so that a CPU and a GPU see the same ones.

    Args:
        seed: of the whole run.
        indices: one number per mixture that identifies it.
        device: where the numbers are wanted.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = device
        self._generators = [
            torch.Generator().manual_seed(int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]))
            for index in indices
        ]

    def uniform(self, num: int) -> Float[Tensor, "M num"]:
        """`num` uniform numbers in [0, 1) for each mixture, float64 where the device has it.

        Rounded to float32 they are the same numbers to 2⁻²⁵, and so are the draws that they decide, except where a
        number lies that close to the border between two outcomes.
        """
        numbers = torch.stack([torch.rand(num, generator=each, dtype=torch.float64) for each in self._generators])
        dtype = widest_float(self.device)
        below_one = 1 - torch.finfo(dtype).eps / 2  # rounding must not reach 1
        return numbers.to(dtype).clamp_(max=below_one).to(self.device)


class CandidateGenerators(MixtureGenerators):
    """The numbers that some of the candidates would get if all were drawn together.

    Args:
        seed, indices, device: see MixtureGenerators.
        own: which of the candidates.
        num_candidates: how many there are in all.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], device: torch.device | str, own: slice, num_candidates: int
    ) -> None:
        super().__init__(seed, indices, device)
        self.own, self.num_candidates = own, num_candidates

    def uniform(self, num: int) -> Float[Tensor, "M num"]:
        """One number for each of the own candidates; `num` is their number."""
        return super().uniform(self.num_candidates)[:, self.own]
