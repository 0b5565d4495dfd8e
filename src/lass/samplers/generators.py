"""Random streams per mixture, so that a mixture's random numbers do not depend on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lass.devices.numerics import widest_float


class MixtureGenerators:
    """One independent random stream per mixture, seeded by (seed, index of the mixture).

    Numbers are drawn on the CPU and moved to the device, so that they are equal for all devices.

    Args:
        seed: Seed of the run.
        indices: Index of each mixture.
        device: Device of the returned numbers.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = device
        self._generators = [
            torch.Generator().manual_seed(int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]))
            for index in indices
        ]

    def uniform(self, *shape: int) -> Float[Tensor, "M *shape"]:
        """Return uniform numbers in [0, 1), per mixture; float64, or float32 on devices without float64.

        The float32 numbers equal the float64 numbers up to 2⁻²⁵. They lead to the same draws, except where a number is
        that close to the boundary between two outcomes.
        """
        numbers = torch.stack([torch.rand(shape, generator=each, dtype=torch.float64) for each in self._generators])
        dtype = widest_float(self.device)
        below_one = 1 - torch.finfo(dtype).eps / 2  # rounding must not reach 1
        return numbers.to(dtype).clamp_(max=below_one).to(self.device)

    def normal(self, *shape: int) -> Float[Tensor, "M *shape"]:
        """Return standard normal numbers in float32, per mixture."""
        return torch.stack([torch.randn(shape, generator=each) for each in self._generators]).to(self.device)


class CandidateGenerators(MixtureGenerators):
    """Random streams for a chunk of the candidates, with the numbers that these get if all candidates are drawn at
    once.

    Args:
        seed, indices, device: See `MixtureGenerators`.
        own: Slice of the candidates in the chunk.
        num_candidates: Total number of candidates.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], device: torch.device | str, own: slice, num_candidates: int
    ) -> None:
        super().__init__(seed, indices, device)
        self.own, self.num_candidates = own, num_candidates

    def uniform(self, *shape: int) -> Float[Tensor, "M *shape"]:
        """Return the numbers of each candidate of the chunk, whose number is the first dimension."""
        return super().uniform(self.num_candidates, *shape[1:])[:, self.own]
