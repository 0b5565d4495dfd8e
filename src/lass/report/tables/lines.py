"""The numbers of one row of a table of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lass.report.tables.definition import SECONDS, Column, Part, Row
from lass.report.tables.plan import Planned
from lass.report.tables.seconds import Timing
from lass.report.tables.statistics import Estimate, estimate, paired_difference


@dataclasses.dataclass(frozen=True)
class Line:
    """Numbers of one method.

    Args:
        row: Definition.
        scores: Statistics of each score; without those that the results do not have.
        differences: Paired difference of each score to the reference on the mixtures that both have.
        seconds: Seconds for one mixture alone, if measured.
        num_mixtures: Number of mixtures in the results.
        note: What is missing or wrong.
    """

    row: Row
    scores: dict[str, Estimate]
    differences: dict[str, Estimate]
    seconds: Timing | None
    num_mixtures: int
    note: str

    def paper(self, score: str) -> float | str | None:
        """Value of the paper; None if it has none."""
        return self.row.paper.get(score)


def lines_of(
    part: Part, planned: Sequence[Planned], times: Mapping[str, Timing], failed: Sequence[str] = ()
) -> list[Line]:
    """Numbers of all rows of a part.

    Args:
        part: Definition.
        planned: Its rows with their results.
        times: Seconds for one mixture alone by results folder.
        failed: Results folders of the runs that failed.
    """
    by_name = {item.row.name: item for item in planned}
    return [_line(part, item, by_name.get(part.reference), times, failed) for item in planned]


def _line(
    part: Part, item: Planned, reference: Planned | None, times: Mapping[str, Timing], failed: Sequence[str]
) -> Line:
    scores, differences = {}, {}
    for column in part.columns:
        if statistics := _statistics(item, column):
            scores[column.score] = statistics
        if reference is None or reference is item or not item.results.scores:
            continue
        own, others = (_values(one, column) for one in (item, reference))
        if difference := paired_difference(own, others):
            differences[column.score] = difference
    folder = item.run.folder if item.run is not None else ""
    seconds = None if item.row.prefix else times.get(folder, item.results.seconds)
    num_mixtures = len(item.results.scores)
    return Line(item.row, scores, differences, seconds, num_mixtures, _note(item, folder in failed))


def _values(item: Planned, column: Column) -> dict[tuple[int, int], float]:
    return item.results.values(item.row.prefix + column.score)


def _statistics(item: Planned, column: Column) -> Estimate | None:
    """Statistics over mixtures, or a Fréchet distance, which is one number for all mixtures."""
    if "." in column.score:
        value = item.results.distance(column.score)
        return None if value is None else estimate([value])
    return estimate(_values(item, column).values())


def _note(item: Planned, has_failed: bool) -> str:
    """What is missing or wrong, in a few words."""
    notes = [item.row.note, f"published {item.results.published}" if item.results.published else ""]
    if has_failed:
        notes.append("the run failed, see its output")
    elif item.results.problem:
        notes.append(item.results.problem)
    elif item.row.runs and not item.results.scores:
        notes.append("needs training" if item.run is None else "not run")
    return "; ".join(filter(None, notes))


def has_seconds(lines: Sequence[Line]) -> bool:
    """Whether any method has a time, measured or of the paper."""
    return any(line.seconds is not None or SECONDS in line.row.paper for line in lines)
