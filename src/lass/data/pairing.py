"""Which sources make up the mixtures of an evaluation: seeded once, stored as a file, the same for everybody."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lass.artifacts import written_whole
from lass.errors import LassError

HEADER = ["mixture", "first", "second"]


def draw_pairs(num_sources: int, num_mixtures: int, seed: int) -> Int[Tensor, "num_mixtures 2"]:
    """Random pairs in which every source is used once before any is used again, and none is mixed with itself.

    Raises:
        LassError: if there are fewer than two sources.

    Source: LASS (arXiv:2301.08562), section "Quantitative Results": 6,000 mixtures of 12,000 test sources; MNIST has
    10,000, so the last 1,000 mixtures use some a second time.
    """
    if num_sources < 2:
        raise LassError(f"Mixtures need at least two sources, got {num_sources}.")
    generator = np.random.default_rng(seed)
    rounds = -(-2 * num_mixtures // num_sources)
    order = np.concatenate([generator.permutation(num_sources) for _ in range(rounds)])[: 2 * num_mixtures]
    pairs = order.reshape(-1, 2)
    # Only a pair across the seam of two rounds can hold one source twice.
    same = pairs[:, 0] == pairs[:, 1]
    pairs[same, 1] = (pairs[same, 1] + 1) % num_sources
    return torch.from_numpy(pairs)


def write_pairs(path: str | Path, pairs: Int[Tensor, "num_mixtures 2"]) -> None:
    """Store pairs as CSV."""
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [HEADER, *([i, *pair] for i, pair in enumerate(pairs.tolist()))]
        )


def read_pairs(path: str | Path, num_sources: int) -> Int[Tensor, "num_mixtures 2"]:
    """Read pairs stored by `write_pairs`.

    Raises:
        LassError: if the file is missing, is no such list, or names sources that are not there.
    """
    path = Path(path)
    if not path.is_file():
        raise LassError(
            f"There is no list of test mixtures at {path}: name another with --data.mixtures, or null to draw one."
        )
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    try:
        if rows[0] != HEADER:
            raise ValueError(f"its first line is {rows[0]}")
        pairs = torch.tensor([[int(first), int(second)] for _, first, second in rows[1:]])
    except (ValueError, IndexError) as error:
        raise LassError(f"{path} is no list of mixtures with the columns {', '.join(HEADER)}: {error}.") from error
    if pairs.numel() == 0 or pairs.min() < 0 or pairs.max() >= num_sources:
        raise LassError(f"{path} names sources outside 0…{num_sources - 1}: it belongs to another dataset or split.")
    return pairs
