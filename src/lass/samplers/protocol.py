"""The one step protocol that every sampler follows, and what it gets to see."""

# M mixtures, C candidates before the step (1 at the first position), N candidates after it

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from lass.samplers.generators import MixtureGenerators


class Drawn(NamedTuple):
    """Pairs of codes with their log posterior: log p(first) + log p(second) + λ log p(mixture | first, second)."""

    first: Tensor  # long, (M, N) where drawn, (M, C, k) where the best were asked for
    second: Tensor  # the same
    log_posterior: Tensor  # float, not normalised; −inf where there is no such pair


class Choice(NamedTuple):
    """What a sampler decides at one position."""

    parents: Tensor  # (M, N) long: the candidate, 0…C-1, from which each new candidate continues
    first: Tensor  # (M, N) long: its next code for the first source
    second: Tensor  # (M, N) long: and for the second
    scores: Tensor  # (M, N) float: its log posterior so far, unnormalised
    log_weights: Tensor | None = None  # (M, N) float: what it counts for; the mean of exp estimates the evidence so far


@runtime_checkable
class Posterior(Protocol):
    """The posterior of one position, for all mixtures and candidates; how it is stored is nobody's business.

    Source: LASS (arXiv:2301.08562), Eq. 2, and Lines 5 to 7 of Algorithm 1.
    """

    num_mixtures: int
    num_candidates: int  # C
    log_weights: Tensor  # (M, C): as the sampler gave them at the position before; 0 where it gave none

    def draw(
        self,
        parents: Int[Tensor, "M N"],
        uniforms: Float[Tensor, "M N"],
        temperature: float = 1.0,
        at_least: Float[Tensor, "M C"] | None = None,
    ) -> Drawn:
        """One pair for each of N new candidates, given its parent.

        From the posterior to the power 1 / temperature, among the pairs whose log posterior is `at_least` so high;
        exact, by inverting the running sum at the uniform number.
        """

    def best(self, k: int, canonical: bool = False) -> Drawn:
        """The k most probable pairs of each candidate, best first; filled up with −inf where there are fewer.

        With `canonical`, of a pair (a, b) and its reverse that lead to the same two sequences in another order only
        the one with first ≤ second is kept. That is so where exchangeable sources have had the same codes so far.
        """

    def nucleus(self, p: float, temperature: float = 1.0) -> Float[Tensor, "M C"]:
        """Log posterior of the least probable pair that is in the nucleus of probability p.

        A pair is in it while all that are more probable hold less than p of the posterior to the power 1 / temperature.
        """

    def log_normalizer(self, temperature: float = 1.0) -> Float[Tensor, "M C"]:
        """log Z_s: the log of the sum of the unnormalised posterior, to the power 1 / temperature, over all pairs."""

    def entropy(self) -> Float[Tensor, "M C"]:
        """Entropy of the normalised posterior, in nats."""


@runtime_checkable
class Sampler(Protocol):
    """Line 8 of Algorithm 1, for M mixtures at once.

    Ancestral sampling lets every candidate continue itself, beam search chooses which ones go on: both say so with
    `parents`. At the first position there is one candidate, the empty one, per mixture.

    A sampler may also implement `IndependentSampler`.
    """

    @property
    def num_candidates(self) -> int:
        """N, candidates per mixture."""
        ...

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """Choose `num_candidates` continuations per mixture.

        Args:
            posterior: of the next pair, given each candidate.
            scores: (M, C) log posterior of the candidates so far.
            generator: source of randomness, one stream per mixture.
        """
        ...


@runtime_checkable
class IndependentSampler(Sampler, Protocol):
    """A dataclass that states whether its candidates are independent of each other.

    They are if no candidate depends on another, and each uses one random number per position. Where memory is short,
    independent candidates are separated in chunks.
    """

    @property
    def independent(self) -> bool:
        """Whether they are."""
        ...
