"""Key/value cache for sequences that are resampled, with shared storage of their common prefix."""

# L layers, B sequences, H heads, T code positions, D dim per head

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FIRST_ROOM = 64  # initial capacity in positions; doubled when it is full
SHARE_FROM = 16  # minimal growth of the common prefix before it is moved to shared storage; less is not worth a copy


class KeyValueCache:
    """Key/value cache of a transformer whose sequences are reordered at every position, as in beam search.

    Each sequence is a row of the cache. The prefix shared by all rows is stored once, and attention to it is one matrix
    product; the remaining entries are stored per row. (Rows of different sources or mixtures share no prefix.) `select`
    copies only the rows with a new parent, from the first position at which any of them differs from the content of its
    new row; all other rows cost nothing.

    Args:
        num_layers, num_heads, head_dim: Sizes of the transformer.
        num_positions: Maximal number of positions T.
        num_sequences: Initial number of sequences, which are empty.
        like: Tensor with the data type and device of keys and values.

    Source: own design. Beams share a long prefix, because all of them soon descend from one early beam.
    """

    def __init__(
        self, num_layers: int, num_heads: int, head_dim: int, num_positions: int, num_sequences: int, like: Tensor
    ) -> None:
        self.num_positions, self.num_sequences = num_positions, num_sequences
        self.length = 0  # positions filled, in every row
        self.num_shared = 0  # length of the prefix in shared storage
        self.num_moved = 0  # entries (one position of one row) copied by `select` so far
        self._base = 0  # position of the first entry in `_own`
        self._shared = like.new_empty(2, num_layers, num_heads, num_positions, head_dim)
        self._own = self._allocate(num_sequences, min(num_positions, FIRST_ROOM))
        # Row in which each entry was computed: two rows have equal entries up to the first position where these differ.
        self._origins = torch.full((num_sequences, num_positions), -1, dtype=torch.int32, device=like.device)

    @staticmethod
    def bytes_for(
        num_layers: int,
        num_heads: int,
        head_dim: int,
        num_positions: int,
        num_sequences: int,
        length: int,
        dtype: torch.dtype,
    ) -> int:
        """Return the peak memory in bytes of a cache that is filled to `length` positions.

        The peak is at the last reallocation, when the old and the new entries are in memory.
        """
        room, most = min(num_positions, FIRST_ROOM), min(num_positions, FIRST_ROOM)
        while room < length:
            most = room + min(2 * room, num_positions)
            room = most - room
        entry = 2 * num_layers * num_heads * head_dim * dtype.itemsize  # bytes per position and row, keys and values
        return entry * (num_sequences * most + num_positions) + 4 * num_sequences * num_positions

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H D"],
        k: Float[Tensor, "B H D"],
        v: Float[Tensor, "B H D"],
        visible: Bool[Tensor, " positions"] | None = None,
    ) -> Float[Tensor, "B H D"]:
        """Store a layer's keys and values of the current position, and attend to it and all previous positions.

        Args:
            layer: Index of the layer.
            q, k, v: Queries, keys and values of the current position.
            visible: Whether each position is attended to, up to the current one; None for all. If none is visible, the
                result is 0.
        """
        now = self.length - self._base
        if now == self._own.shape[-2]:
            self._grow()
            now = self.length - self._base
        keys, values = self._own[:, layer, : self.num_sequences]
        keys[:, :, now], values[:, :, now] = k, v
        own = slice(self.num_shared - self._base, now + 1)
        keys, values = keys[:, :, own].flatten(0, 1), values[:, :, own].flatten(0, 1)  # (B H) positions D, views
        q = q * q.shape[-1] ** -0.5
        scores = torch.bmm(q.flatten(0, 1)[:, None], keys.transpose(1, 2)).view(*q.shape[:2], -1)
        if visible is not None:
            if not visible.any():
                return torch.zeros_like(q)
            scores = scores.masked_fill(~visible[self.num_shared :], -torch.inf)
        if not self.num_shared:
            return torch.bmm(scores.softmax(-1).flatten(0, 1)[:, None], values).view_as(q)
        shared_keys, shared_values = self._shared[:, layer, :, : self.num_shared]  # (H, positions, D)
        shared_scores = torch.bmm(q.transpose(0, 1), shared_keys.transpose(1, 2)).transpose(0, 1)
        if visible is not None:
            shared_scores = shared_scores.masked_fill(~visible[: self.num_shared], -torch.inf)
        weights = torch.cat([shared_scores, scores], -1).softmax(-1)
        shared_weights, weights = weights.split([self.num_shared, weights.shape[-1] - self.num_shared], -1)
        attended = torch.bmm(weights.flatten(0, 1)[:, None], values).view_as(q)
        return attended + torch.bmm(shared_weights.transpose(0, 1), shared_values).transpose(0, 1)

    def advance(self) -> None:
        """Advance to the next position, after all layers have stored the current one."""
        rows = torch.arange(self.num_sequences, dtype=torch.int32, device=self._origins.device)
        self._origins[: self.num_sequences, self.length] = rows
        self.length += 1

    def select(self, parents: Int[Tensor, " new_sequences"]) -> None:
        """Reorder the rows in place, so that row i continues row `parents[i]`; the number of rows may change."""
        moved = (parents != torch.arange(len(parents), device=parents.device)).nonzero()[:, 0]
        if len(parents) > self._own.shape[2]:
            self._reallocate(len(parents) + len(parents) // 4, self._own.shape[-2])
        self.num_sequences = len(parents)
        if len(moved):
            self._copy_rows(parents[moved], moved)
        self._share_beginning()

    def _grow(self) -> None:
        """Make room for more positions, and release the rows' own copies of the shared prefix."""
        own = self.length - self.num_shared
        room = self._own.shape[-2] * (2 if 2 * own > self._own.shape[-2] else 1)
        self._reallocate(self._own.shape[2], min(room, self.num_positions - self.num_shared))

    def _copy_rows(self, sources: Tensor, targets: Tensor) -> None:
        origins = self._origins[sources]  # a copy, as sources may also be targets
        first = self.num_shared + _num_equal_columns(
            origins[:, self.num_shared : self.length], self._origins[targets, self.num_shared : self.length]
        )
        self._origins[targets] = origins
        if first < self.length:
            part = slice(first - self._base, self.length - self._base)
            for entries in self._own.flatten(0, 1):  # per layer, as smaller copies fit into the CPU's cache
                entries[targets, :, part] = entries[sources, :, part]
            self.num_moved += len(targets) * (self.length - first)

    def _share_beginning(self) -> None:
        origins = self._origins[: self.num_sequences, self.num_shared : self.length]
        num_equal = _num_equal_columns(origins[:1], origins)
        if num_equal < SHARE_FROM:
            return
        shared = self.num_shared + num_equal
        part, own = slice(self.num_shared, shared), slice(self.num_shared - self._base, shared - self._base)
        self._shared[..., part, :] = self._own[:, :, 0, :, own]
        self.num_shared = shared

    def _reallocate(self, num_rows: int, room: int) -> None:
        """Reallocate `_own` with `num_rows` rows and `room` positions; entries of the shared prefix are dropped."""
        own, old_rows = self._allocate(num_rows, room), self._own.shape[2]
        kept = slice(self.num_shared - self._base, self.length - self._base)
        own[:, :, :old_rows, :, : self.length - self.num_shared] = self._own[..., kept, :]
        self._own, self._base = own, self.num_shared
        if num_rows > old_rows:
            unused = self._origins.new_full((num_rows - old_rows, self.num_positions), -1)
            self._origins = torch.cat([self._origins, unused])

    def _allocate(self, num_rows: int, room: int) -> Tensor:
        two, num_layers, num_heads, _, head_dim = self._shared.shape  # two: keys, values
        return self._shared.new_empty(two, num_layers, num_rows, num_heads, room, head_dim)


def _num_equal_columns(one: Tensor, other: Tensor) -> int:
    """Count the leading columns that are equal, by bisection: after rows have diverged, they never agree again."""
    low, high = 0, one.shape[1]
    while low < high:
        middle = (low + high) // 2
        if torch.equal(one[:, middle].expand(len(other)), other[:, middle]):
            low = middle + 1
        else:
            high = middle
    return low
