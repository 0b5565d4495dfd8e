"""Protocols of samplers and of the posterior that they draw from, and the types that they exchange."""

# M mixtures, C candidates before the step (1 at the first position), N candidates after it

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from lass.samplers.generators import MixtureGenerators


class Drawn(NamedTuple):
    """Tuples of S codes, one per source, with their unnormalised log posterior Σₛ log p(zₛ) + λ log p(mixture | z)."""

    codes: Tensor  #: long, (M, N, S) from `draw`, (M, C, k, S) from `best`
    log_posterior: Tensor  #: float, (M, N) or (M, C, k); −inf for fill-in entries
    #: Log importance weights, shape of `log_posterior`: tuples weighted by exp of them are distributed, given their
    #: parent, as the unnormalised posterior to the power 1 / temperature. None if the draws are exact: the weight is
    #: then log_normalizer(temperature).
    log_weights: Tensor | None = None


class Choice(NamedTuple):
    """Extension of the candidates by one position, as chosen by a sampler.

    The mean of exp(log_weights) over the candidates is an unbiased estimate of the evidence so far.
    """

    parents: Tensor  #: (M, N) long: index in 0…C-1 of the candidate that each new candidate extends
    codes: Tensor  #: (M, N, S) long: next code of each source
    scores: Tensor  #: (M, N) float: unnormalised log posterior of the sequences so far
    log_weights: Tensor | None = None  #: (M, N) float: unnormalised log importance weights, or None


@runtime_checkable
class Posterior(Protocol):
    """Protocol of the posterior at one position, for all mixtures and candidates; its representation is private.

    Source: LASS (arXiv:2301.08562), Eq. 2, and Lines 5 to 7 of Algorithm 1.
    """

    num_mixtures: int
    num_candidates: int  #: C
    log_weights: Tensor  #: (M, C): the sampler's `Choice.log_weights` of the previous position; 0 if None
    num_uniforms: int  #: U, uniform numbers that a draw uses

    def draw(
        self,
        parents: Int[Tensor, "M N"],
        uniforms: Float[Tensor, "M N U"],
        temperature: float = 1.0,
        at_least: Float[Tensor, "M C"] | None = None,
    ) -> Drawn:
        """Draw one tuple for each of N new candidates, given its parent.

        Tuples are drawn from the posterior raised to the power 1 / temperature: exactly, by inversion of its cumulative
        sum, or approximately, with `Drawn.log_weights`.

        Args:
            parents: Candidate whose posterior each tuple is drawn from.
            uniforms: Uniform numbers in [0, 1), U per draw.
            temperature: Inverse exponent of the posterior.
            at_least: Lower limit of the (untempered) log posterior; tuples below it have probability 0.
        """

    def best(self, k: int, canonical: bool = False) -> Drawn:
        """Return the k most probable tuples of each candidate, best first; filled up with −inf if fewer exist.

        Args:
            k: Number of tuples per candidate.
            canonical: Whether to exclude duplicates under exchange of the sources. For candidates of exchangeable
                sources with equal pasts, (a, b) and (b, a) give the same two sequences; only tuples in which the codes
                of such sources ascend are then kept.
        """

    def nucleus(self, p: float, temperature: float = 1.0) -> Float[Tensor, "M C"]:
        """Return the (untempered) log posterior of the least probable tuple in the nucleus of probability p.

        The nucleus refers to the posterior to the power 1 / temperature, normalised: a tuple is in it if all more
        probable tuples together have probability less than p.
        """

    def log_normalizer(self, temperature: float = 1.0) -> Float[Tensor, "M C"] | None:
        """Return log Z_s: the log of the sum, over all tuples, of the unnormalised posterior to the power 1 /
        temperature. None where the draws are not exact, because this sum is not known.
        """


@runtime_checkable
class Sampler(Protocol):
    """Protocol of samplers: Line 8 of Algorithm 1, for M mixtures at once.

    `Choice.parents` expresses which candidates survive: in ancestral sampling every candidate continues itself, in beam
    search the best ones continue. At the first position each mixture has one candidate, the empty one.

    A sampler may also implement `IndependentSampler`.
    """

    @property
    def num_candidates(self) -> int:
        """N, candidates per mixture."""
        ...

    def step(self, posterior: Posterior, scores: Tensor, generator: MixtureGenerators) -> Choice:
        """Choose `num_candidates` extensions per mixture.

        Args:
            posterior: Posterior of the next tuple of codes, given each candidate.
            scores: (M, C) unnormalised log posterior of the candidates so far.
            generator: Random streams, one per mixture.
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
