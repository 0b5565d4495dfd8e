"""Rows of Table 1: size, density and coverage of the counted likelihoods."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from lass.errors import LassError
from lass.likelihood import SparseCounts
from lass.report.curves import LOG_FILE, LOG_FOLDER
from lass.report.tables.definition import Likelihood, Table
from lass.report.tables.plan import entry, untrained_entry
from lass.report.tables.writers import Record, Section

HEADER = ["dataset", "K", "density in %", "paper, K", "paper, density in %", "pairs seen", "pairs seen in %"]
HEADER += ["coverage of validation triples in %", "counts", "remark"]


def missing_counts(table: Table) -> list[str]:
    """Lines that say which counts are missing, and how to make them."""
    lines = []
    for row in table.likelihoods:
        is_there = any(Path(path).is_file() for path in row.counts)
        lines += [entry("complete", row.name)] if is_there else untrained_entry([row.name], row.train)
    return lines


def section_of_likelihoods(rows: Sequence[Likelihood], title: str) -> Section:
    """Read the counts of all datasets; missing and damaged ones become remarks."""
    records = [_record(row) for row in rows]
    cells = [[_cell(name, record.get(name)) for name in HEADER] for record in records]
    return Section(title, HEADER, cells, records=records)


def _record(row: Likelihood) -> Record:
    record: Record = dict.fromkeys(HEADER, None)
    record |= {"dataset": row.name, "paper, K": row.paper_codes, "paper, density in %": row.paper_density}
    path = next((path for path in row.counts if Path(path).is_file()), None)
    if path is None:
        return record | {"remark": "needs training"}
    try:
        counts = SparseCounts.load(path)
    except LassError as error:
        return record | {"counts": path, "remark": " ".join(str(error).split())}
    pairs = counts.num_pairs_seen
    record |= {"K": counts.num_codes, "density in %": 100 * counts.density, "pairs seen": pairs, "counts": path}
    record["pairs seen in %"] = 100 * pairs / counts.num_codes**2
    if path == row.counts[0] and (coverage := logged_coverage(Path(row.log))) is not None:
        record["coverage of validation triples in %"] = 100 * coverage
    return record


def logged_coverage(folder: Path) -> float | None:
    """Last logged fraction of held-out triples that were counted before; None without a log."""
    found: float | None = None
    version = {path: path.parent.name.removeprefix("version_") for path in folder.glob(f"{LOG_FOLDER}/*/{LOG_FILE}")}
    for path in sorted(version, key=lambda path: int(version[path]) if version[path].isdecimal() else -1):
        with open(path, newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                try:
                    found = float(line.get("val/coverage") or "")
                except ValueError:
                    continue  # a line of other scores, or one that was cut off
    return found


def _cell(name: str, value: str | int | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
