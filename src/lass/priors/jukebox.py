"""Jukebox's prior, a transformer with sparse attention; `lass.importers.jukebox` reads its checkpoints."""

# B sequences, T code positions, K num_codes, H heads, D dim per head

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lass.artifacts import register
from lass.errors import LassError, check_sizes
from lass.priors.cache import KeyValueCache
from lass.priors.cached import CachedPrior
from lass.priors.transformer import MAX_CODES

PATTERNS = ("all", "row", "column", "previous row")


class SparseBlock(nn.Module):
    """Pre-norm transformer block whose attention is restricted to a pattern of positions; see `JukeboxPrior`."""

    def __init__(self, dim: int, num_heads: int, attention_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * attention_dim), nn.Linear(attention_dim, dim)
        self.to_hidden, self.from_hidden = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def step(self, x: Float[Tensor, "B dim"], visible: Bool[Tensor, " T"], cache: KeyValueCache, layer: int) -> Tensor:
        """Apply the block to one position, which attends to the visible positions of the cache and is appended."""
        qkv = self.to_qkv(self.attention_norm(x))
        q, k, v = rearrange(qkv, "b (three h d) -> three b h d", three=3, h=self.num_heads).unbind(0)
        x = x + self.to_out(cache.attend(layer, q, k, v, visible).flatten(1))
        hidden = self.to_hidden(self.feedforward_norm(x))
        return x + self.from_hidden(hidden * torch.sigmoid(1.702 * hidden))


@register
class JukeboxPrior(CachedPrior):
    """Unconditional prior of Jukebox over the codes of its top level, for inference only.

    Positions are divided into rows. In each layer a position attends to itself and all positions before it, to those in
    its row, to those in its column, or to the whole previous row (and to nothing in the first row).

    Args:
        num_codes: Size K of the codec's codebook.
        num_positions: Maximal length T of a code sequence.
        dim: Width of the network.
        num_layers: Number of blocks.
        num_heads: Number of attention heads; a divisor of `attention_dim`.
        attention_dim: Width of queries, keys and values, of all heads together.
        hidden_dim: Width of the hidden layer after the attention.
        row_length: Number of positions in a row.
        patterns: Patterns of attention of the first layers, which are repeated: "all", "row", "column" or
            "previous row".

    Source: Dhariwal et al. 2020 (arXiv:2005.00341), appendix A.1 and "small_prior" of its code; Child et al. 2019
    (arXiv:1904.10509) for the attention.
    """

    mapped = True

    def __init__(
        self,
        num_codes: int = 2048,
        num_positions: int = 8192,
        dim: int = 1024,
        num_layers: int = 48,
        num_heads: int = 1,
        attention_dim: int = 256,
        hidden_dim: int = 1024,
        row_length: int = 128,
        patterns: Sequence[str] = ("row", "column", "previous row"),
    ) -> None:
        super().__init__()
        check_sizes(MAX_CODES, num_codes=num_codes, num_positions=num_positions, row_length=row_length)
        check_sizes(2**16, dim=dim, num_heads=num_heads, attention_dim=attention_dim, hidden_dim=hidden_dim)
        check_sizes(2**10, num_layers=num_layers)
        if attention_dim % num_heads:
            raise LassError(f"attention_dim must be a multiple of num_heads: got {attention_dim} and {num_heads}.")
        if not patterns or not set(patterns) <= set(PATTERNS):
            raise LassError(f"patterns must be a list of {', '.join(PATTERNS)}, not {list(patterns)!r:.200}.")
        self.config = {
            "num_codes": num_codes,
            "num_positions": num_positions,
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "attention_dim": attention_dim,
            "hidden_dim": hidden_dim,
            "row_length": row_length,
            "patterns": list(patterns),
        }
        self.num_codes, self.num_positions, self.row_length = num_codes, num_positions, row_length
        self.patterns = [patterns[layer % len(patterns)] for layer in range(num_layers)]
        self.cache_sizes = (num_layers, num_heads, attention_dim // num_heads)
        self.code_embedding = nn.Embedding(num_codes, dim)  # also the weights of the logits
        self.position_embedding = nn.Parameter(torch.zeros(num_positions, dim))
        self.start_embedding = nn.Parameter(torch.zeros(dim))
        self.blocks = nn.ModuleList(SparseBlock(dim, num_heads, attention_dim, hidden_dim) for _ in range(num_layers))

    def first_input(
        self, num_sequences: int, condition: Int[Tensor, " sequences"] | None
    ) -> Float[Tensor, "sequences dim"]:
        """See `CachedPrior`."""
        if condition is not None:
            raise LassError("This prior takes no condition; got one.")
        return self.start_embedding.expand(num_sequences, -1)

    @torch.no_grad()
    def apply_blocks(self, x: Float[Tensor, "sequences dim"], cache: KeyValueCache) -> Float[Tensor, "sequences dim"]:
        """See `CachedPrior`."""
        x = x + self.position_embedding[cache.length]
        visible = self._visible(cache.length)
        for layer, (block, pattern) in enumerate(zip(self.blocks, self.patterns, strict=True)):
            x = cast(SparseBlock, block).step(x, visible[pattern], cache, layer)
        return x

    @torch.no_grad()
    def head(self, x: Float[Tensor, "sequences dim"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `CachedPrior`."""
        return x, self.code_embedding.weight, None

    def _visible(self, position: int) -> dict[str, Bool[Tensor, " T"]]:
        """For each pattern, whether `position` attends to each of the positions up to itself."""
        past = torch.arange(position + 1, device=self.position_embedding.device)
        row, column = past // self.row_length, past % self.row_length
        return {
            "all": torch.ones_like(past, dtype=torch.bool),
            "row": row == row[-1],
            "column": column == column[-1],
            "previous row": row == row[-1] - 1,
        }
