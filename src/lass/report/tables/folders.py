"""Scores of a results folder, which may be missing, unfinished, damaged or of another version."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lass.artifacts import read_json
from lass.errors import LassError
from lass.report.results import CONTENT
from lass.report.tables.seconds import Timing

OTHER_VERSION = "made by another version of lass, replace it with --model.overwrite=true"
Key = tuple[int, int]  # index of a mixture, checksum of its sources


@dataclass(frozen=True)
class Results:
    """Content of a results folder.

    Args:
        scores: Scores by mixture; a score that is missing or no number is NaN.
        summary: Statistics over all mixtures, which has also the Fréchet distances.
        num_stored: Number of mixtures with a stored result; more than in `scores` while a run is unfinished.
        problem: Why there are no scores, or not those of all stored mixtures; empty if all is well.
        published: Date of published results; empty for those of a results folder.
        seconds: Published seconds for one mixture alone.
    """

    scores: dict[Key, dict[str, float]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    num_stored: int = 0
    problem: str = ""
    published: str = ""
    seconds: Timing | None = None

    def values(self, score: str) -> dict[Key, float]:
        """One score by mixture; NaN where it is undefined."""
        return {key: row.get(score, math.nan) for key, row in self.scores.items()}

    def distance(self, name: str) -> float | None:
        """A number of the summary, `fid.estimates`; None if it is not there."""
        value: object = self.summary
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_results(root: str | Path) -> Results:
    """Read a results folder without raising: what is wrong with it is its `problem`."""
    root = Path(root)
    num_stored = sum(1 for _ in root.glob("mixtures/[0-9]*.safetensors"))
    if not num_stored and not (root / "results.csv").is_file():
        return Results()
    try:
        version = read_json(root / "settings.json", "run's settings").get("content")
        if version != CONTENT:
            return Results(problem=OTHER_VERSION)
        if not (root / "results.csv").is_file():
            return Results(num_stored=num_stored, problem=f"unfinished: {num_stored} mixtures are stored, no table yet")
        scores = read_table(root / "results.csv")
        summary = read_json(root / "summary.json", "summary") if (root / "summary.json").is_file() else {}
    except LassError as error:
        return Results(num_stored=num_stored, problem=" ".join(str(error).split()))
    unfinished = f"unfinished: {num_stored} mixtures are stored" if num_stored > len(scores) else ""
    return Results(scores, summary, max(num_stored, len(scores)), unfinished)


def read_table(path: Path) -> dict[Key, dict[str, float]]:
    """Read the scores of each mixture.

    Raises:
        LassError: if the file is damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{str(name): cell for name, cell in row.items()} for row in csv.DictReader(file)]
        return {
            (int(row["mixture"]), int(row["checksum"])): {name: _number(cell) for name, cell in row.items()}
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise LassError(f"{path} is damaged ({type(error).__name__}): run the command again.") from error


def _number(cell: object) -> float:
    try:
        return float(cell) if isinstance(cell, str) else math.nan
    except ValueError:
        return math.nan
