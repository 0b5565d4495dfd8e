"""The one step protocol that every sampler follows, and what it gets to see."""

# M mixtures, C candidates before the step (1 at the first position), N candidates after it

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from lass.samplers.generators import MixtureGenerators


class Drawn(NamedTuple):
    """Pairs of codes with their log posterior: log p(first) + log p(second) + λ log p(mixture | first, second)."""

    first: Tensor  # (M, C, n) long
    second: Tensor  # (M, C, n) long
    log_posterior: Tensor  # (M, C, n) float, not normalised; −inf where there is no such pair


class Choice(NamedTuple):
    """What a sampler decides at one position."""

    parents: Tensor  # (M, N) long: the candidate, 0…C-1, from which each new candidate continues
    first: Tensor  # (M, N) long: its next code for the first source
    second: Tensor  # (M, N) long: and for the second
    scores: Tensor  # (M, N) float: its log posterior so far, unnormalised


@runtime_checkable
class Posterior(Protocol):
    """The posterior of one position, for all mixtures and candidates; how it is stored is nobody's business.

    Source: LASS (arXiv:2301.08562), Eq. 2, and Lines 5 to 7 of Algorithm 1.
    """

    num_mixtures: int
    num_candidates: int  # C

    def draw(self, uniforms: Float[Tensor, "M C n"], temperature: float = 1.0) -> Drawn:
        """n pairs per candidate, from the posterior to the power 1 / temperature; exact, by inverting its sum."""

    def best(self, k: int) -> Drawn:
        """The k most probable pairs of each candidate, best first; filled up with −inf where there are fewer."""

    def log_normalizer(self) -> Float[Tensor, "M C"]:
        """log Z_s: the log of the sum of the unnormalised posterior over all pairs."""

    def entropy(self) -> Float[Tensor, "M C"]:
        """Entropy of the normalised posterior, in nats."""


@runtime_checkable
class Sampler(Protocol):
    """Line 8 of Algorithm 1, for M mixtures at once.

    Ancestral sampling lets every candidate continue itself, beam search chooses which ones go on: both say so with
    `parents`. At the first position there is one candidate, the empty one, per mixture.
    """

    num_candidates: int

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """Choose `num_candidates` continuations per mixture.

        Args:
            posterior: of the next pair, given each candidate.
            scores: (M, C) log posterior of the candidates so far.
            generator: source of randomness, one stream per mixture.
        """
