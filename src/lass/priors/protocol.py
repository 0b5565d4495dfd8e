"""Interfaces of priors: what Algorithm 1 needs, and what some priors have in addition."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Prior(Protocol):
    """p(next code | past codes) of one source, for a batch of sequences. No base class is needed.

    The state is private to the prior (a key/value cache, a table, nothing): callers only pass it back. `step` may
    change it in place.

    A prior may also implement `BoundedPrior`, `OrderedPrior` and `SizedPrior`.
    """

    num_codes: int

    def start(self, num_sequences: int, condition: Int[Tensor, " sequences"] | None = None) -> Any:
        """Return the state of `num_sequences` empty sequences, optionally with a class for each."""
        ...

    def step(self, state: Any, codes: Int[Tensor, " sequences"] | None) -> Float[Tensor, "sequences num_codes"]:
        """Append one code to every sequence and return the normalised log p(next code | past), in nats.

        `codes` is None at the first position only, as the sequences are empty.
        """
        ...

    def select(self, state: Any, parents: Int[Tensor, " new_sequences"]) -> Any:
        """Return the state in which sequence i continues sequence `parents[i]`; the number of sequences may change."""
        ...


@runtime_checkable
class BoundedPrior(Prior, Protocol):
    """A prior for sequences of limited length."""

    num_positions: int  #: largest length


@runtime_checkable
class OrderedPrior(Prior, Protocol):
    """A prior that reads the codes of a grid in another order than row by row; see `to_reading_order`."""

    order: Sequence[int] | None  #: permutation of the grid's positions; None: row by row


@runtime_checkable
class SizedPrior(Prior, Protocol):
    """A prior that knows the memory of its state, so that separations are divided to fit into memory."""

    def bytes_for(self, num_sequences: int, num_positions: int) -> int:
        """Upper bound of the bytes of a state of `num_sequences` sequences with `num_positions` codes each."""
        ...


def reading_order(prior: Prior) -> tuple[int, ...] | None:
    """The prior's permutation of the grid's positions; None for row by row."""
    return tuple(prior.order) if isinstance(prior, OrderedPrior) and prior.order is not None else None
