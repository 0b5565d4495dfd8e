"""Plot of quality against time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from lass.report.figures import literal
from lass.report.tables.definition import Column
from lass.report.tables.lines import Line


def quality_against_seconds(lines: Sequence[Line], column: Column, title: str) -> Figure | None:
    """Plot the mean score of each method, with its 95 % interval, against seconds for one mixture (logarithmic).

    Args:
        lines: Methods; those without a score or a measured time are left out.
        column: Score.
        title: Title.

    Returns:
        The figure; None if no method has both.
    """
    points = [
        (line, line.scores[column.score], line.seconds)
        for line in lines
        if column.score in line.scores and line.seconds is not None
    ]
    if not points:
        return None
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    groups = list(dict.fromkeys(line.row.group for line, _, _ in points))
    for line, score, seconds in points:
        error = 0.0 if math.isnan(score.half_width) else score.half_width
        deviation = 0.0 if math.isnan(seconds.deviation) else min(seconds.deviation, 0.9 * seconds.mean)
        colour = f"C{groups.index(line.row.group)}"
        axes.errorbar(seconds.mean, score.mean, error, deviation, "o", color=colour, capsize=2, markersize=5)
        axes.annotate(
            literal(line.row.name),
            (seconds.mean, score.mean),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
            parse_math=False,
        )
    for group in groups:
        axes.plot([], [], "o", color=f"C{groups.index(group)}", label=literal(group))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.25, y=0.1)
    axes.set_xlabel("seconds for one mixture")
    axes.set_ylabel(literal(column.title), parse_math=False)
    axes.set_title(literal(title), fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure
