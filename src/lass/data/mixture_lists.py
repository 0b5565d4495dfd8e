"""Lists of the sources that form evaluation mixtures: drawn from a seed, or stored as CSV for reproducibility."""

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

PLACES_HEADER = ["mixture", "song", "start_seconds"]


def draw_tuples(
    num_available: int, num_mixtures: int, seed: int, num_sources: int = 2
) -> Int[Tensor, "num_mixtures num_sources"]:
    """Draw random tuples of distinct sources from successive random permutations of all sources.

    Each source is therefore used once before any is reused, with one exception: in a tuple that spans two permutations,
    a source that would occur twice is replaced by the next one that does not.

    Args:
        num_available: Number of sources to draw from.
        num_mixtures: Number of tuples.
        seed: Seed of the random permutations.
        num_sources: Number S of sources per tuple.

    Returns:
        Positions of the sources of each tuple, (num_mixtures, num_sources).

    Raises:
        LassError: if fewer than `num_sources` sources are available.

    Source: LASS (arXiv:2301.08562), section "Quantitative Results": 6,000 mixtures of 12,000 test sources; MNIST has
    10,000, so the last 1,000 mixtures reuse sources.
    """
    if num_available < num_sources:
        raise LassError(f"Mixtures of {num_sources} sources need at least as many to draw from, got {num_available}.")
    generator = np.random.default_rng(seed)
    num_drawn = num_sources * num_mixtures
    rounds = -(-num_drawn // num_available)
    order = np.concatenate([generator.permutation(num_available) for _ in range(rounds)])[:num_drawn]
    tuples = order.reshape(-1, num_sources)
    for column in range(1, num_sources):
        while (repeated := (tuples[:, :column] == tuples[:, column, None]).any(1)).any():
            tuples[repeated, column] = (tuples[repeated, column] + 1) % num_available
    return torch.from_numpy(tuples)


def write_tuples(path: str | Path, tuples: Int[Tensor, "num_mixtures num_sources"]) -> None:
    """Store tuples as CSV with the columns mixture, source_1, …, source_S."""
    _write(path, _tuples_header(tuples.shape[1]), tuples.tolist())


def read_tuples(path: str | Path, num_available: int, num_sources: int) -> Int[Tensor, "num_mixtures num_sources"]:
    """Read tuples stored by `write_tuples`.

    Args:
        path: Path of the CSV file.
        num_available: Number of sources in the dataset, to which the positions refer.
        num_sources: Expected number S of sources per tuple.

    Raises:
        LassError: if the file is missing, is not a list of tuples, has another number of sources per tuple, or holds
            positions outside 0…num_available-1.
    """

    def is_header(columns: list[str]) -> bool:
        return len(columns) > 2 and columns == _tuples_header(len(columns) - 1)

    header, tuples = _read(path, _tuples_header(num_sources), is_header, lambda *sources: tuple(map(int, sources)))
    if (num_listed := len(header) - 1) != num_sources:
        raise LassError(
            f"{path} lists mixtures of {num_listed} sources, but num_sources is {num_sources}: name another list with "
            f"--data.mixtures, or set --data.num_sources={num_listed}."
        )
    if not all(0 <= source < num_available for sources in tuples for source in sources):
        raise LassError(f"{path} names sources outside 0…{num_available - 1}: it belongs to another dataset or split.")
    return torch.tensor(tuples)


def write_places(path: str | Path, places: Sequence[tuple[str, float]]) -> None:
    """Store the positions of mixtures in songs as CSV: name of the song and start of the mixture in seconds."""
    _write(path, PLACES_HEADER, places)


def read_places(path: str | Path) -> list[tuple[str, float]]:
    """Read places stored by `write_places`.

    Raises:
        LassError: if the file is missing or is not a list of places.
    """
    _, places = _read(path, PLACES_HEADER, PLACES_HEADER.__eq__, lambda song, start: (song, float(start)))
    for song, start in places:
        if not 0 <= start < math.inf:
            raise LassError(f"{path} names {song} at {start} s: expected a start of 0 s or more.")
    return places


def _write(path: str | Path, header: list[str], rows: Sequence[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *([i, *row] for i, row in enumerate(rows))])


def _tuples_header(num_sources: int) -> list[str]:
    return ["mixture", *(f"source_{source + 1}" for source in range(num_sources))]


def _read(
    path: str | Path, expected: list[str], is_header: Callable[[list[str]], bool], parse: Callable[..., tuple]
) -> tuple[list[str], list[tuple]]:
    """Read the header of a list, which `is_header` must accept, and its rows, parsed without their first column."""
    path = Path(path)
    if not path.is_file():
        raise LassError(
            f"There is no list of test mixtures at {path}: name another with --data.mixtures, or null to draw one."
        )
    columns = ", ".join(expected)
    text = read_text(path, "list of mixtures", f"expected a CSV file in UTF-8 with the columns {columns}")
    parsed, reader = [], csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(reader, [])
        if not is_header(header):
            raise ValueError(f"its first line is {','.join(header)!r:.80}")
        for row in filter(None, reader):
            if len(row) != len(header):
                raise ValueError(f"line {reader.line_num} has {len(row)} columns")
            parsed.append(parse(*row[1:]))
        if not parsed:
            raise ValueError("it has no mixtures")
    except (ValueError, csv.Error) as error:
        raise LassError(f"{path} is no list of mixtures with the columns {columns}: {error!s:.200}.") from error
    return header, parsed
