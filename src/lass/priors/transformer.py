"""Decoder-only transformer prior over code sequences."""

# B sequences, T code positions, K num_codes, H heads, D dim per head

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lass.artifacts import register
from lass.errors import LassError, check_number, check_sizes
from lass.priors.cache import KeyValueCache
from lass.priors.cached import CachedPrior

MAX_CODES = 2**21 - 1  # limit of SparseCounts


Rotation = tuple[Tensor, Tensor]  # cosines and sines, (T, D / 2)


def rotation(positions: Int[Tensor, " T"], head_dim: int, like: Tensor) -> Rotation:
    """Compute the cosines and sines of rotary position embeddings, in float32, then converted to the type of `like`.

    Source: Su et al. 2021 (arXiv:2104.09864), section 3.2.2.
    """
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angles = torch.outer(positions.float(), frequencies)
    return angles.cos().to(like), angles.sin().to(like)


def rotate(x: Float[Tensor, "B H T D"], by: Rotation) -> Float[Tensor, "B H T D"]:
    """Apply rotary position embeddings: rotate each pair of channels (i, i + D/2) by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = by
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Block(nn.Module):
    """Pre-norm transformer block: causal self-attention and a feed-forward network."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feedforward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, by: Rotation | None) -> Tensor:
        """Apply the block to whole sequences (B, T, dim); `by` is the rotation, or None for learned positions."""
        q, k, v = self._qkv(x, by)
        attended = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        return self._finish(x, attended)

    def step(self, x: Tensor, by: Rotation | None, cache: KeyValueCache, layer: int) -> Tensor:
        """Apply the block to one position (B, 1, dim), which attends to the cache and is appended to it."""
        q, k, v = self._qkv(x, by)
        return self._finish(x, cache.attend(layer, q[:, :, 0], k[:, :, 0], v[:, :, 0])[:, :, None])

    def _qkv(self, x: Tensor, by: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.to_qkv(self.attention_norm(x))
        q, k, v = rearrange(qkv, "b t (three h d) -> three b h t d", three=3, h=self.num_heads).unbind(0)
        return (q, k, v) if by is None else (rotate(q, by), rotate(k, by), v)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self._drop(self.to_out(rearrange(attended, "b h t d -> b t (h d)")))
        return x + self._drop(self.feedforward(self.feedforward_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


@register
class TransformerPrior(CachedPrior):
    """Decoder-only transformer prior p(codes) = Π p(code s | codes before s), unconditional or class-conditional.

    Args:
        num_codes: Size K of the codec's codebook.
        num_positions: Length T of a code sequence, the product of the codec's grid.
        dim: Width of the network.
        num_layers: Number of blocks.
        num_heads: Number of attention heads; a divisor of `dim`.
        dropout: Dropout probability of attention and of each residual branch, in training.
        num_classes: Number of classes; 0 for an unconditional prior.
        class_dropout: Probability of withholding the class, in training. Above 0, the prior can be used with and
            without a class.
        positions: "learned" for one embedding per position; "rotary" for embeddings under which attention depends on
            relative positions only.
        order: Order in which codes are read, as row-by-row indices into the codec's grid; default row by row.
            The codes of `forward` and `step` are in this order.
        checkpointing: Whether activations inside blocks are recomputed in the backward pass, in training: less memory
            for a third more time.

    Source: LASS (arXiv:2301.08562), section "Autoregressive Models"; Radford et al. 2019 (GPT-2) for the blocks.
    """

    mapped = True

    def __init__(
        self,
        num_codes: int = 256,
        num_positions: int = 49,
        dim: int = 128,
        num_layers: int = 3,
        num_heads: int = 2,
        dropout: float = 0.1,
        num_classes: int = 0,
        class_dropout: float = 0.0,
        positions: Literal["learned", "rotary"] = "learned",
        checkpointing: bool = False,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(MAX_CODES, num_codes=num_codes, num_positions=num_positions)
        check_sizes(2**16, dim=dim, num_heads=num_heads)
        check_sizes(2**10, num_layers=num_layers)
        check_number("num_classes", num_classes, at_least=0, at_most=MAX_CODES, whole=True)
        check_number("dropout", dropout, at_least=0, below=1)
        check_number("class_dropout", class_dropout, at_least=0, at_most=1)
        if positions not in ("learned", "rotary"):
            raise LassError(f"positions must be 'learned' or 'rotary', not {positions!r}.")
        if dim % num_heads:
            raise LassError(f"dim must be a multiple of num_heads: got {dim} and {num_heads}.")
        self.config = {
            "num_codes": num_codes,
            "num_positions": num_positions,
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "dropout": dropout,
            "num_classes": num_classes,
            "class_dropout": class_dropout,
            "positions": positions,
            "checkpointing": checkpointing,
            "order": None if order is None else list(order),
        }
        if order is not None and sorted(order) != list(range(num_positions)):
            raise LassError(f"order must name each of 0…{num_positions - 1} once.")
        self.order = order
        self.num_codes, self.num_positions, self.num_classes = num_codes, num_positions, num_classes
        self.cache_sizes = (num_layers, num_heads, dim // num_heads)
        self.num_heads, self.dropout, self.class_dropout = num_heads, dropout, class_dropout
        self.code_embedding = nn.Embedding(num_codes, dim)
        self.rotary, self.checkpointing = positions == "rotary", checkpointing
        if self.rotary and dim // num_heads % 2:
            raise LassError(f"Rotary positions need an even width of the heads, not {dim // num_heads}.")
        if not self.rotary:
            self.position_embedding = nn.Parameter(torch.empty(num_positions, dim))
        # One row per class, and a last one for "no class" if the prior can be used without a class.
        self.start_embedding = nn.Embedding(num_classes + self._knows_any_class, dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.to_logits = nn.Linear(dim, num_codes)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                residual = name.endswith(("to_out.weight", "feedforward.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * num_layers) ** 0.5 if residual else 0.02)

    def forward(
        self, codes: Int[Tensor, "batch time"], condition: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch time num_codes"]:
        """Compute the logits of every code given the codes before it, in one pass, for training.

        Args:
            codes: Sequences of codes, whole or truncated.
            condition: Class of each sequence; only for a class-conditional prior.
        """
        start = self.first_input(len(codes), condition)
        if self.training and condition is not None and self.class_dropout:
            withheld = torch.rand(len(codes), 1, device=start.device) < self.class_dropout
            start = torch.where(withheld, self.start_embedding.weight[-1], start)
        x = torch.cat([start[:, None], self.code_embedding(codes[:, :-1])], 1)
        x, by = self._at(x, 0)
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, by, use_reentrant=False)
            else:
                x = block(x, by)
        return self.to_logits(self.norm(x))

    def apply_blocks(self, x: Float[Tensor, "sequences dim"], cache: KeyValueCache) -> Float[Tensor, "sequences dim"]:
        """See `CachedPrior`."""
        x, by = self._at(x[:, None], cache.length)
        for layer, block in enumerate(self.blocks):
            x = cast(Block, block).step(x, by, cache, layer)
        return x[:, 0]

    def head(self, x: Float[Tensor, "sequences dim"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `CachedPrior`."""
        return self.norm(x), self.to_logits.weight, self.to_logits.bias

    def _at(self, x: Tensor, first: int) -> tuple[Tensor, Rotation | None]:
        """Add learned embeddings of the positions from `first` on to x, (B, T, dim); or return the rotary rotation."""
        last = first + x.shape[1]
        if self.rotary:
            positions = torch.arange(first, last, device=x.device)
            return x, rotation(positions, x.shape[2] // self.num_heads, like=x)
        return x + self.position_embedding[first:last], None

    @property
    def _knows_any_class(self) -> bool:
        return not self.num_classes or self.class_dropout > 0

    def first_input(
        self, num_sequences: int, condition: Int[Tensor, " sequences"] | None
    ) -> Float[Tensor, "sequences dim"]:
        """See `CachedPrior`."""
        if condition is None and not self._knows_any_class:
            raise LassError(f"This prior takes a class in 0…{self.num_classes - 1} for each sequence; got none.")
        if condition is None:
            return self.start_embedding.weight[-1].expand(num_sequences, -1)
        if not self.num_classes:
            raise LassError("This prior takes no condition; got one.")
        if condition.numel() and not 0 <= int(condition.min()) <= int(condition.max()) < self.num_classes:
            raise LassError(
                f"Classes must be in 0…{self.num_classes - 1}; got {int(condition.min())}…{int(condition.max())}."
            )
        return self.start_embedding(condition)
