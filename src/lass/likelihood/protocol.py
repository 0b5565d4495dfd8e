"""Interfaces of likelihoods: what Algorithm 1 needs, and what some likelihoods have in addition."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Pairs of source codes with a non-zero likelihood of one mixture code."""

    first: Tensor  # (nonzeros,) long
    second: Tensor  # (nonzeros,) long
    log_likelihood: Tensor  # (nonzeros,) float, log p(mixture | first, second)


@runtime_checkable
class Likelihood(Protocol):
    """p(mixture at one position | source codes). No base class is needed.

    A likelihood of two sources is a `PairLikelihood`: `SparseLikelihood` depends on the mixture's codes,
    `LatentLikelihood` on its unquantised latents. `ChainLikelihood` and `AdditiveLikelihood` are for more sources. A
    likelihood may also implement `SymmetricLikelihood`, `LatentsLikelihood`, `CoverageLikelihood`, `MovableLikelihood`
    and `SavableLikelihood`.
    """

    num_codes: int


@runtime_checkable
class PairLikelihood(Likelihood, Protocol):
    """p(mixture at one position | pair of source codes), on its support."""

    def at(self, mixture_codes: list[int], mixture_latents: Tensor | None = None) -> list[Pairs]:
        """The pairs for one position of each mixture: at least one each, distinct, sorted by first and second code.

        Args:
            mixture_codes: One code per mixture.
            mixture_latents: (mixtures, dim), unquantised latents at that position, or None.
        """
        ...


@runtime_checkable
class SymmetricLikelihood(Protocol):
    """A likelihood that states whether it is symmetric in the sources."""

    symmetric: bool  # the value of (first, second) is always that of (second, first)


@runtime_checkable
class LatentsLikelihood(Protocol):
    """A likelihood that states whether it needs the mixture's latents."""

    needs_latents: bool


@runtime_checkable
class CoverageLikelihood(Protocol):
    """A likelihood that was counted, so that mixture codes can be missing from it."""

    def is_counted(self, mixture_code: int) -> bool:
        """Whether any pair was counted with this mixture code."""
        ...


@runtime_checkable
class MovableLikelihood(Protocol):
    """A likelihood that can be moved to another device."""

    def to(self, device: torch.device | str) -> Likelihood:
        """The same likelihood on another device."""
        ...


@runtime_checkable
class SavableLikelihood(Likelihood, Protocol):
    """A likelihood that `Separator.save_pretrained` can save."""

    def save(self, path: str | Path) -> None:
        """Write one file."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that define the likelihood."""
        ...


def is_symmetric(likelihood: Likelihood) -> bool:
    """Whether the likelihood states that it is symmetric in the sources."""
    return isinstance(likelihood, SymmetricLikelihood) and likelihood.symmetric


def needs_latents(likelihood: Likelihood) -> bool:
    """Whether the likelihood needs the mixture's unquantised latents."""
    return isinstance(likelihood, LatentsLikelihood) and likelihood.needs_latents
