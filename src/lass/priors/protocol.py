"""Interface of priors, as required by Algorithm 1."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Prior(Protocol):
    """Interface of an autoregressive prior p(next code | past codes) of one source, batched over sequences.

    The state of the sequences is opaque to the caller (a key/value cache, a table, nothing) and is only passed back.
    `step` may change it in place.

    Optional attributes: `num_positions`, the maximal length of a sequence; `order`, the order in which the prior reads
    the codes of a grid (see `to_reading_order`); and `bytes_for(num_sequences, num_positions)`, an upper bound on the
    memory of the state in bytes.
    """

    num_codes: int

    def start(self, num_sequences: int, condition: Int[Tensor, " sequences"] | None = None) -> Any:
        """Return the state of `num_sequences` empty sequences, optionally with a class for each."""

    def step(self, state: Any, codes: Int[Tensor, " sequences"] | None) -> Float[Tensor, "sequences num_codes"]:
        """Append one code to every sequence and return the normalised log p(next code | past), in nats.

        `codes` is None at the first position only, as the sequences are empty.
        """

    def select(self, state: Any, parents: Int[Tensor, " new_sequences"]) -> Any:
        """Return the state in which sequence i continues sequence `parents[i]`; the number of sequences may change."""
