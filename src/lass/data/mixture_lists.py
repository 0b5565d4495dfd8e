"""Lists of the source pairs that form evaluation mixtures: drawn from a seed, or stored as CSV for reproducibility."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lass.artifacts import atomic_write
from lass.data.files import read_text
from lass.errors import LassError

HEADER = ["mixture", "first", "second"]
PLACES_HEADER = ["mixture", "song", "start_seconds"]


def draw_pairs(num_sources: int, num_mixtures: int, seed: int) -> Int[Tensor, "num_mixtures 2"]:
    """Draw random pairs of distinct sources; each source is used once before any is reused.

    Args:
        num_sources: Number of sources to draw from.
        num_mixtures: Number of pairs.
        seed: Seed of the random permutations.

    Returns:
        Positions of the two sources of each pair, (num_mixtures, 2).

    Raises:
        LassError: if there are fewer than two sources.

    Source: LASS (arXiv:2301.08562), section "Quantitative Results": 6,000 mixtures of 12,000 test sources; MNIST has
    10,000, so the last 1,000 mixtures reuse sources.
    """
    if num_sources < 2:
        raise LassError(f"Mixtures need at least two sources, got {num_sources}.")
    generator = np.random.default_rng(seed)
    rounds = -(-2 * num_mixtures // num_sources)
    order = np.concatenate([generator.permutation(num_sources) for _ in range(rounds)])[: 2 * num_mixtures]
    pairs = order.reshape(-1, 2)
    # A source can only be paired with itself where the pair spans two consecutive permutations.
    same = pairs[:, 0] == pairs[:, 1]
    pairs[same, 1] = (pairs[same, 1] + 1) % num_sources
    return torch.from_numpy(pairs)


def write_pairs(path: str | Path, pairs: Int[Tensor, "num_mixtures 2"]) -> None:
    """Store pairs as CSV."""
    _write(path, HEADER, pairs.tolist())


def read_pairs(path: str | Path, num_sources: int) -> Int[Tensor, "num_mixtures 2"]:
    """Read pairs stored by `write_pairs`.

    Raises:
        LassError: if the file is missing, is not a list of pairs, or holds positions outside 0…num_sources-1.
    """
    pairs = _read(path, HEADER, lambda first, second: (int(first), int(second)))
    if not all(0 <= source < num_sources for pair in pairs for source in pair):
        raise LassError(f"{path} names sources outside 0…{num_sources - 1}: it belongs to another dataset or split.")
    return torch.tensor(pairs)


def write_places(path: str | Path, places: Sequence[tuple[str, float]]) -> None:
    """Store the positions of mixtures in songs as CSV: name of the song and start of the mixture in seconds."""
    _write(path, PLACES_HEADER, places)


def read_places(path: str | Path) -> list[tuple[str, float]]:
    """Read places stored by `write_places`.

    Raises:
        LassError: if the file is missing or is not a list of places.
    """
    places = _read(path, PLACES_HEADER, lambda song, start: (song, float(start)))
    for song, start in places:
        if not 0 <= start < math.inf:
            raise LassError(f"{path} names {song} at {start} s: expected a start of 0 s or more.")
    return places


def _write(path: str | Path, header: list[str], rows: Sequence[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *([i, *row] for i, row in enumerate(rows))])


def _read(path: str | Path, header: list[str], parse: Callable[[str, str], tuple]) -> list[tuple]:
    path = Path(path)
    if not path.is_file():
        raise LassError(
            f"There is no list of test mixtures at {path}: name another with --data.mixtures, or null to draw one."
        )
    columns = ", ".join(header)
    text = read_text(path, "list of mixtures", f"expected a CSV file in UTF-8 with the columns {columns}")
    parsed, reader = [], csv.reader(io.StringIO(text, newline=""))
    try:
        if (first := next(reader, [])) != header:
            raise ValueError(f"its first line is {','.join(first)!r:.80}")
        for row in filter(None, reader):
            if len(row) != len(header):
                raise ValueError(f"line {reader.line_num} has {len(row)} columns")
            parsed.append(parse(*row[1:]))
        if not parsed:
            raise ValueError("it has no mixtures")
    except (ValueError, csv.Error) as error:
        raise LassError(f"{path} is no list of mixtures with the columns {columns}: {error!s:.200}.") from error
    return parsed
