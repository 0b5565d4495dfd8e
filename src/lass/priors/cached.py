"""What transformer priors with a key/value cache have in common."""

# B sequences, T code positions, K num_codes

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lass.artifacts import Artifact
from lass.errors import LassError
from lass.priors.cache import KeyValueCache


@dataclass
class CachedState:
    """State of a batch of sequences during sampling."""

    cache: KeyValueCache
    start: Tensor  # (B, dim), input at the first position


class CachedPrior(Artifact):
    """Base class of transformer priors that keep keys and values of the past in a `KeyValueCache`.

    A subclass sets the attributes, also `Artifact.mapped`, which is not inherited, and defines `first_input`,
    `apply_blocks` and `head`.
    """

    kind = "prior"
    num_codes: int  #: size K of the codebook
    num_positions: int  #: maximal length T of a sequence
    cache_sizes: tuple[int, int, int]  #: layers, heads and width of a head of the cache
    code_embedding: nn.Embedding

    def first_input(
        self, num_sequences: int, condition: Int[Tensor, " sequences"] | None
    ) -> Float[Tensor, "sequences dim"]:
        """Return the input at the first position, for the classes of the sequences, or None for no classes."""
        raise NotImplementedError(f"{type(self).__name__} must define first_input()")

    def apply_blocks(self, x: Float[Tensor, "sequences dim"], cache: KeyValueCache) -> Float[Tensor, "sequences dim"]:
        """Apply all blocks at the position `cache.length`; each appends its keys and values to the cache."""
        raise NotImplementedError(f"{type(self).__name__} must define apply_blocks()")

    def head(self, x: Float[Tensor, "sequences dim"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the input of the last linear layer, its weights and its bias."""
        raise NotImplementedError(f"{type(self).__name__} must define head()")

    def start(self, num_sequences: int, condition: Int[Tensor, " sequences"] | None = None) -> CachedState:
        """Allocate the cache of `num_sequences` empty sequences; see `Prior`."""
        start = self.first_input(num_sequences, condition)
        return CachedState(KeyValueCache(*self.cache_sizes, self.num_positions, num_sequences, start), start)

    def bytes_for(self, num_sequences: int, num_positions: int) -> int:
        """Return an upper bound on the memory of the state in bytes, up to `num_positions` positions; see `Prior`."""
        sizes = (*self.cache_sizes, self.num_positions)
        return KeyValueCache.bytes_for(*sizes, num_sequences, num_positions, self.code_embedding.weight.dtype)

    def step(self, state: CachedState, codes: Int[Tensor, " sequences"] | None) -> Float[Tensor, "sequences num_codes"]:
        """Append a position and return log p(next code | past); see `Prior`.

        Raises:
            LassError: if the sequences already have `num_positions` codes.
        """
        if state.cache.length == self.num_positions:
            raise LassError(f"This prior is for sequences of {self.num_positions} codes; a longer one was requested.")
        x = self.apply_blocks(state.start if codes is None else self.code_embedding(codes), state.cache)
        state.cache.advance()
        x, weight, bias = self.head(x)
        # In float32, because half precision does not resolve the logits of 16,384 codes.
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).log_softmax(-1)

    def select(self, state: CachedState, parents: Int[Tensor, " new_sequences"]) -> CachedState:
        """Reorder, drop or duplicate sequences in place; only changed rows are copied. See `Prior`."""
        if not state.cache.length:
            state.start = state.start[parents]
        state.cache.select(parents)
        return state
