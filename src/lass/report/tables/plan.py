"""Plan of a table: which runs are complete, which can be made now and how long they take, which need training."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from lass.report.tables.definition import Part, Row, Run, Table
from lass.report.tables.folders import OTHER_VERSION, Results, read_results
from lass.report.tables.published import read_published
from lass.report.tables.seconds import Timing

START_SECONDS = 20.0  # of a run, until it separates its first mixture
#: Variables of make that must not be passed on to the make commands of runs, where they have another meaning
OF_MAKE = (
    "MAKEFLAGS",
    "MFLAGS",
    "MAKEOVERRIDES",
    "MAKELEVEL",
    "ARGS",
    "DATASET",
    "METHOD",
    "SOURCE",
    "MODELS",
    "CASES",
)


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What may be run.

    Args:
        everything: Whether all runs are made that need no training, with all mixtures.
        minutes: Time up to which a run is made otherwise.
        num_mixtures: Number of mixtures of every row; None for those of the definitions.
        options: Additional options of the runs by dataset.
        published: Whether published results stand in for runs that were not made.
    """

    everything: bool = False
    minutes: float = 10.0
    num_mixtures: int | None = None
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    published: bool = True


@dataclasses.dataclass(frozen=True)
class Planned:
    """A row with its results so far, and what is to be done for it.

    Args:
        part: Part of the table that it belongs to.
        row: Definition.
        run: Run whose results it shows or will show; None for values of the paper only, or if nothing can be run.
        results: Results so far.
        target: Number of mixtures that it should have now.
        seconds: Estimated time until it has them; 0 if it has them.
        runs_now: Whether the run is made now.
    """

    part: Part
    row: Row
    run: Run | None
    results: Results
    target: int
    seconds: float = 0.0
    runs_now: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether enough mixtures have scores, or the row has the paper's values only."""
        return not self.row.runs or len(self.results.scores) >= self.target

    def command(self, wishes: Wishes) -> str:
        """Command that makes the results, as typed in a shell; empty if there is none."""
        if self.run is None:
            return ""
        options = [self.run.options, f"--data.num_mixtures={self.target}", wishes.options.get(self.part.dataset, "")]
        return f'{self.run.command} ARGS="{" ".join(filter(None, options))}"'


def plan(table: Table, wishes: Wishes, times: Mapping[str, Timing]) -> list[Planned]:
    """Compare the rows of a table with the results folders, and with published results.

    Args:
        table: Definition.
        wishes: What may be run.
        times: Measured seconds for one mixture by results folder, which replace the estimates of the definition.
    """
    planned = [_planned(part, row, wishes, times) for part in table.parts for row in part.rows]
    # A figure of separations needs the estimates, which are not published.
    return [_or_published(item) for item in planned] if wishes.published and table.kind == "scores" else planned


def _or_published(item: Planned) -> Planned:
    """The same row with published results if it has none of its own.

    Published results replace a run unless it would show models that were trained here.
    """
    if item.is_complete or item.results.num_stored:
        return item
    found = [(run, read_published(run.folder)) for run in item.row.runs]
    run, results = max(found, key=lambda pair: len(pair[1].scores))
    if not results.scores:
        return item
    trained_here = item.run is not None and any(Path(path).is_relative_to("runs") for path in item.run.needs)
    if len(results.scores) < item.target or (trained_here and item.runs_now):
        return dataclasses.replace(item, results=results)
    return dataclasses.replace(item, run=run, results=results, seconds=0.0, runs_now=False)


def _planned(part: Part, row: Row, wishes: Wishes, times: Mapping[str, Timing]) -> Planned:
    all_mixtures = wishes.num_mixtures or part.num_mixtures(row)
    target = all_mixtures if wishes.everything or not row.quick else min(row.quick, all_mixtures)
    found = [(run, read_results(run.folder)) for run in row.runs]
    best: Planned | None = None
    for run, results in found:  # a complete run, otherwise one with results
        candidate = Planned(part, row, run, results, target)
        if candidate.is_complete:
            return candidate
        if results.scores and (best is None or len(results.scores) > len(best.results.scores)):
            best = candidate
    able = [(run, results) for run, results in found if all(Path(path).exists() for path in run.needs)]
    if best is not None and best.run not in [run for run, _ in able]:
        return best  # its models are gone, so it cannot be continued
    if not able:
        return best or Planned(part, row, None, found[0][1] if found else Results(), target)
    run, results = (best.run, best.results) if best is not None and best.run is not None else able[0]
    each = times[run.folder].mean if run.folder in times else row.seconds
    seconds = START_SECONDS + max(0, target - results.num_stored) * each
    runs_now = results.problem != OTHER_VERSION and (wishes.everything or row.cheap or seconds <= 60 * wishes.minutes)
    return Planned(part, row, run, results, target, seconds, runs_now)


def commands(planned: Iterable[Planned], wishes: Wishes) -> dict[str, tuple[str, float]]:
    """Commands to be run now, with their estimated seconds, by results folder.

    A folder that several rows share has one command, for the largest number of mixtures.
    """
    largest: dict[str, Planned] = {}
    for item in planned:
        if item.run is not None and item.runs_now:
            previous = largest.get(item.run.folder)
            if previous is None or item.target > previous.target:
                largest[item.run.folder] = item
    return {folder: (item.command(wishes), item.seconds) for folder, item in largest.items()}


def describe(planned: Iterable[Planned], wishes: Wishes) -> list[str]:
    """Lines that say of each row what is there, what is run, and what has to be done by hand."""
    lines = []
    untrained: dict[tuple[str, ...], list[str]] = {}  # rows by the commands that they need
    for item in planned:
        if not item.row.runs:
            continue
        name, num = f"{item.row.name} ({item.part.name})", len(item.results.scores)
        published = f"published {item.results.published}: {num:,} mixtures" if item.results.published else ""
        reason = "".join(f"; {words}" for words in (item.results.problem, published) if words)
        if item.is_complete and not item.runs_now:
            lines.append(entry("published" if published else "complete", f"{name}: {num:,} mixtures"))
        elif item.run is None:
            untrained.setdefault(tuple(item.row.runs[0].train), []).append(name + reason)
        elif not item.seconds:
            lines.append(
                entry("partly there", f"{name}: {num:,} of {item.target:,} mixtures, without its models{reason}")
            )
        else:
            time = f"{name}: {item.target:,} mixtures, about {duration(item.seconds)}{reason}"
            lines += [entry("to run now" if item.runs_now else "left out", time), entry("", item.command(wishes))]
    return lines + [line for train, names in untrained.items() for line in untrained_entry(names, train)]


def entry(state: str, text: str) -> str:
    """A line of the plan."""
    return f"  {state:14}  {text}"


def untrained_entry(names: Iterable[str], train: Iterable[str]) -> list[str]:
    """Lines of the plan for rows that need models, with the commands that make them."""
    return [entry("needs training", ", ".join(names)), *(entry("", f"  {command}") for command in train)]


def duration(seconds: float) -> str:
    """Time in words: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_command(command: str) -> bool:
    """Run a `make` command, and return whether it succeeded. Its output goes to the terminal."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    print(f"\n{command}", flush=True)
    try:
        return subprocess.run(shlex.split(command), env=environment).returncode == 0
    except OSError as error:  # there is no make
        print(f"lass: {error}", flush=True)
        return False
