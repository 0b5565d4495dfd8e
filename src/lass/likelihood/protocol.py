"""Protocol of likelihoods, as required by Algorithm 1."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Pairs(NamedTuple):
    """Pairs of source codes with non-zero likelihood at one position of one mixture, and their log likelihood."""

    first: Tensor  # (nonzeros,) long
    second: Tensor  # (nonzeros,) long
    log_likelihood: Tensor  # (nonzeros,) float, log p(mixture | first, second)


@runtime_checkable
class Likelihood(Protocol):
    """Protocol of likelihoods of the mixture at one position, given a pair of source codes.

    `SparseLikelihood` depends on the mixture's codes, `LatentLikelihood` on its unquantised latents.
    """

    num_codes: int

    def at(self, mixture_codes: list[int], mixture_latents: Tensor | None = None) -> list[Pairs]:
        """Return the pairs at one position of each mixture: at least one, all distinct, sorted by first, then second
        code.

        Args:
            mixture_codes: One code per mixture.
            mixture_latents: (mixtures, dim), unquantised latents at that position, or None.
        """
