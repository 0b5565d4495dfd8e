"""What Algorithm 1 asks of a prior, and nothing else."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Prior(Protocol):
    """p(next code | past codes) of one source, for many sequences at once.

    The state is the prior's own business (a key/value cache, a table, nothing): callers only hand it back. `step` may
    change it in place.

    A prior may also have `num_positions`, the most codes it takes; `order`, in which it reads those of a grid (see
    `to_reading_order`); and `bytes_for(num_sequences, num_positions)`, what its state takes at most.
    """

    num_codes: int

    def start(self, num_sequences: int, condition: Int[Tensor, " sequences"] | None = None) -> Any:
        """State of `num_sequences` empty sequences, optionally with a class for each."""

    def step(self, state: Any, codes: Int[Tensor, " sequences"] | None) -> Float[Tensor, "sequences num_codes"]:
        """Append one code to every sequence and return the normalised log p(next code | past).

        `codes` is None at the first position only, where there is no past.
        """

    def select(self, state: Any, parents: Int[Tensor, " new_sequences"]) -> Any:
        """State in which sequence i continues from sequence `parents[i]`; the number of sequences may change."""
