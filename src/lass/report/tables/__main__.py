"""Command line of the tables: `python -m lass.report.tables 2`, or `make table-2`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lass.errors import LassError, check_number
from lass.report.figures import picture
from lass.report.tables.definition import Table, all_tables, load_table
from lass.report.tables.likelihoods import missing_counts, section_of_likelihoods
from lass.report.tables.lines import Line, lines_of
from lass.report.tables.pictures import separations
from lass.report.tables.plan import Planned, Wishes, commands, describe, duration, plan, run_command
from lass.report.tables.plots import quality_against_seconds
from lass.report.tables.published import publish
from lass.report.tables.seconds import OUTPUT, Timing, read_seconds, seconds_file
from lass.report.tables.writers import section_of, write_all

REPETITIONS = 11  # of a method when times are measured: one to warm up and ten that count


def parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="lass.report.tables", description="Make tables and figures of the paper from results folders."
    )
    parser.add_argument("names", nargs="*", help="numbers of tables, or names as figure-3; default all")
    parser.add_argument("--all", action="store_true", help="make all runs that need no training, with all mixtures")
    parser.add_argument("--plan", action="store_true", help="only say what is missing and what would be run")
    parser.add_argument("--no-runs", action="store_true", help="only use the results that are there")
    parser.add_argument("--own", action="store_true", help="ignore published results")
    parser.add_argument("--publish", action="store_true", help="copy the results into experiments/published")
    parser.add_argument("--minutes", type=float, default=10.0, help="make runs that take at most so long (default 10)")
    parser.add_argument("--mixtures", type=int, help="number of mixtures of every row")
    parser.add_argument(
        "--options",
        action="append",
        default=[],
        metavar="DATASET=OPTIONS",
        help='additional options of the runs of a dataset: --options "celeba=--data.mixtures=null"',
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Say what is missing, run what is cheap, and write the tables.

    Raises:
        LassError: for a table that does not exist, or for a wrong option.
    """
    options = parser().parse_args(arguments)
    check_number("--minutes", options.minutes, at_least=0)
    if options.mixtures is not None:
        check_number("--mixtures", options.mixtures, at_least=1, whole=True)
    pairs = [text.partition("=") for text in options.options]
    for dataset, sign, _ in pairs:
        if not sign or not Path("experiments", dataset, "separate.yaml").is_file():
            raise LassError(f"--options needs DATASET=OPTIONS with a folder of experiments, not {dataset!r}.")
    extra = {name: text for name, _, text in pairs}
    wishes = Wishes(options.all, options.minutes, options.mixtures, extra, not (options.own or options.publish))
    tables = [load_table(name) for name in options.names or all_tables()]
    failed = _run_missing(tables, wishes, may_run=not (options.plan or options.no_runs))
    if options.plan:
        return
    if options.publish:
        _publish([table for table in tables if table.kind == "scores"], wishes)
    for table in tables:
        print("\n" + write(table, wishes, failed), flush=True)


def _run_missing(tables: Sequence[Table], wishes: Wishes, may_run: bool) -> list[str]:
    """Print the plan, run what is to be run, and return the results folders of the runs that failed."""
    planned = [(table, plan(table, wishes, _times(table))) for table in tables]
    for table, items in planned:
        print(f"{table.title} ({table.key})")
        print("\n".join(missing_counts(table) if table.likelihoods else describe(items, wishes)), flush=True)
    waiting = commands([item for _, items in planned for item in items], wishes)
    if waiting:
        total = duration(sum(seconds for _, seconds in waiting.values()))
        print(f"\n{len(waiting)} runs to make now, about {total}. ARGS=--all makes also those that are left out.")
    if not may_run:
        return []
    failed = [folder for folder, (command, _) in waiting.items() if not run_command(command)]
    _measure_missing_times([table for table in tables if table.kind == "scores"], wishes)
    return failed


def _measure_missing_times(tables: Sequence[Table], wishes: Wishes) -> None:
    """Measure the times of all methods of a dataset anew if one with results has none and this is cheap."""
    needed: dict[str, dict[str, float]] = {}  # estimated seconds by dataset and folder
    for table in tables:
        for item in plan(table, wishes, _times(table)):
            if item.run is not None and item.results.num_stored and not item.results.published and not item.row.prefix:
                needed.setdefault(item.part.dataset, {})[item.run.folder] = item.row.seconds
    for dataset, folders in needed.items():
        if set(folders) <= set(_read_times(dataset)):
            continue
        seconds = REPETITIONS * sum(folders.values())
        command = f"make seconds DATASET={dataset}"
        if wishes.everything or seconds <= 60 * wishes.minutes:
            run_command(command)
        else:
            print(f"\nTimes of {dataset} are not measured, about {duration(seconds)}: {command}", flush=True)


def _read_times(dataset: str) -> dict[str, Timing]:
    """Measured times of a dataset; a damaged file is reported and counts as none."""
    try:
        return read_seconds(seconds_file(dataset))
    except LassError as error:
        print(f"lass: {error}", file=sys.stderr)
        return {}


def _times(table: Table) -> dict[str, Timing]:
    return {folder: time for part in table.parts for folder, time in _read_times(part.dataset).items()}


def write(table: Table, wishes: Wishes, failed: Sequence[str] = (), output: Path = OUTPUT) -> str:
    """Write a table or figure to `output` from the results that are there, and return what to print."""
    if table.kind == "separations":
        return "\n".join([f"## {table.title}", *_write_pictures(table, wishes, output), table.note]).rstrip()
    notes = [table.note] if table.note else []
    if table.kind == "likelihoods":
        section = section_of_likelihoods(table.likelihoods, "counted likelihoods")
        section.notes.extend(notes)
        return write_all(output, table.key, table.title, [section])
    times = _times(table)
    sections, pictures = [], []
    planned = plan(table, wishes, times)
    for part in table.parts:
        lines = lines_of(part, [item for item in planned if item.part is part], times, failed)
        remarks = [*_about_seconds(lines), *(notes if part is table.parts[-1] else [])]
        sections.append(section_of(part, lines, part.name, remarks))
        pictures += _write_plot(table, part.name, part.dataset, lines, output)
    text = write_all(output, table.key, table.title, sections)
    return "\n".join([text, *pictures, f"Files: {output / table.key}.md, .tex, .csv"])


def _about_seconds(lines: Sequence[Line]) -> list[str]:
    """What the seconds are and where they were measured; times of several machines are not comparable."""
    machines: dict[str, list[Line]] = {}
    for line in lines:
        if line.seconds is not None:
            machines.setdefault(line.seconds.machine, []).append(line)
    if not machines:
        return []
    num = max(line.seconds.num for line in lines if line.seconds is not None)
    names = {machine: f" ({', '.join(line.row.name for line in found)})" for machine, found in machines.items()}
    where = "; ".join(f"{machine}{names[machine] if len(machines) > 1 else ''}" for machine in machines)
    return [f"Seconds: mean ± deviation of {num} separations of one mixture; {where}."]


def _publish(tables: Sequence[Table], wishes: Wishes) -> None:
    """Publish all results of the tables that were made here."""
    for table in tables:
        times = _times(table)
        for item in plan(table, wishes, times):
            if item.run is not None and item.results.scores and not item.results.problem and not item.row.prefix:
                command = dataclasses.replace(item, target=len(item.results.scores)).command(wishes)
                path = publish(item.run.folder, item.results, command, times.get(item.run.folder))
                print(f"Published: {path}, {len(item.results.scores):,} mixtures")


def _write_plot(table: Table, name: str, dataset: str, lines: Sequence[Line], output: Path) -> list[str]:
    (part,) = [part for part in table.parts if part.name == name]
    if not part.columns:
        return []
    figure = quality_against_seconds(lines, part.columns[0], f"{table.title}: {name}")
    path = output / f"{table.key}-{dataset}.png"
    return [f"Plot: {path}"] if figure is not None and _save(figure, path) else []


def _write_pictures(table: Table, wishes: Wishes, output: Path) -> list[str]:
    lines = []
    planned: list[Planned] = plan(table, wishes, _times(table))
    for part in table.parts:
        path = output / f"{table.key}-{part.dataset}.png"
        items = [item for item in planned if item.part is part]
        try:
            figure = separations(items, part.examples, part.name)
        except LassError as error:
            lines.append(f"{part.name}: left out, {error}")
            continue
        if figure is None:
            lines.append(f"{part.name}: left out, there are no results yet.")
        elif _save(figure, path):
            absent = [item.row.name for item in items if not item.results.scores]
            lines.append(f"{part.name}: {path}" + (f", without {', '.join(absent)} (no results)" if absent else ""))
    return lines


def _save(figure: Figure, path: Path) -> bool:
    return picture(lambda: figure, path)


if __name__ == "__main__":
    try:
        main()
    except LassError as error:
        sys.exit(f"lass: {error}")
    except KeyboardInterrupt:
        sys.exit("lass: stopped; the same command continues where it was.")
