"""Published results: the scores of each mixture of earlier runs, which stand in for a run that was not made here.

experiments/published/DATASET/RUN/results.csv   one row per mixture, as in the results folder runs/DATASET/RUN
experiments/published/DATASET/RUN/about.json    command, date, settings, Fréchet distances, seconds and their machine
"""

from __future__ import annotations

import csv
import datetime
import math
from pathlib import Path

from lass.artifacts import atomic_write, read_json, write_json
from lass.errors import LassError
from lass.report.tables.folders import Results, read_table
from lass.report.tables.seconds import Timing, timing

PUBLISHED = Path("experiments/published")
DIGITS = 6  # significant ones of scores


def published_folder(folder: str | Path) -> Path:
    """Folder of the published results of a results folder."""
    folder = Path(folder)
    return PUBLISHED / (folder.relative_to("runs") if folder.is_relative_to("runs") else folder)


def read_published(folder: str | Path) -> Results:
    """Read the published results of a results folder without raising: what is wrong with them is their `problem`."""
    root = published_folder(folder)
    if not (root / "results.csv").is_file():
        return Results()
    try:
        about = read_json(root / "about.json", "description of published results")
        scores = read_table(root / "results.csv")
        machine, values, summary, date = (about[name] for name in ("machine", "seconds", "summary", "date"))
        return Results(scores, dict(summary), len(scores), published=str(date), seconds=timing(values, machine))
    except LassError as error:
        return Results(problem=" ".join(str(error).split()))
    except (KeyError, TypeError, ValueError) as error:
        return Results(problem=f"{root / 'about.json'} is damaged ({type(error).__name__})")


def publish(folder: str | Path, results: Results, command: str, seconds: Timing | None) -> Path:
    """Copy the results of a run, rounded, to where the repository keeps them.

    Args:
        folder: Results folder.
        results: Its content.
        command: Command that made it.
        seconds: Seconds for one mixture alone, if measured.

    Returns:
        The folder of the published results.
    """
    root = published_folder(folder)
    names = list(dict.fromkeys(name for row in results.scores.values() for name in row))
    with atomic_write(root / "results.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in results.scores.values():
            writer.writerow(_cell(row.get(name, math.nan)) for name in names)
    about = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "settings": read_json(Path(folder) / "settings.json", "run's settings"),
        "summary": results.summary,
        "seconds": [] if seconds is None else list(seconds.values),
        "machine": "" if seconds is None else seconds.machine,
    }
    write_json(root / "about.json", about)
    return root


def _cell(value: float) -> str:
    """A number as text; whole ones (index and checksum of a mixture) are exact."""
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() else f"{value:.{DIGITS}g}"
