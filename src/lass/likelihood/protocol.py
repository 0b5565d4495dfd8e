"""What Algorithm 1 asks of a likelihood, and nothing else."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Pairs(NamedTuple):
    """Pairs of source codes that can give one mixture code, and how likely."""

    first: Tensor  # (nonzeros,) long
    second: Tensor  # (nonzeros,) long
    log_likelihood: Tensor  # (nonzeros,) float, log p(mixture code | first, second)


@runtime_checkable
class Likelihood(Protocol):
    """Which pairs of source codes explain the mixture at one position.

    `SparseLikelihood` looks at the mixture's codes; one that looks at the unquantised latents gets these too.
    """

    num_codes: int

    def at(self, mixture_codes: list[int], mixture_latents: Tensor | None = None) -> list[Pairs]:
        """The pairs for one position of each mixture: at least one each, none twice, sorted by first and second code.

        Args:
            mixture_codes: one code per mixture.
            mixture_latents: (mixtures, dim), unquantised latents at that position, where the caller has them.
        """
