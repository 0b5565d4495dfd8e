"""Definitions of tables and figures: YAML files in experiments/tables, one per table or figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from lass.errors import LassError, check_number

T = TypeVar("T", bound="Run | Row | Column | Part | Likelihood | Table")
FOLDER = Path("experiments/tables")
KINDS = ("scores", "likelihoods", "separations")
SECONDS = "seconds"  # name of the paper's times, among the scores of the paper


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of stage 4 that gives the results of a row.

    Args:
        folder: Results folder.
        command: `make` command without options. The options are given to it as ARGS.
        options: Options of the run, without the number of mixtures.
        needs: Files or folders that must be there: trained models.
        train: Commands that make them.
    """

    folder: str
    command: str
    options: str = ""
    needs: list[str] = dataclasses.field(default_factory=list)
    train: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Row:
    """A method.

    Args:
        name: Name of the method.
        group: Kind of method, which is its colour in the plot.
        paper: Values of the paper by score, as numbers or as text ("24.2 ± 6.2").
        runs: Runs that give its results, in order of preference; none for a method with the paper's values only.
        mixtures: Number of mixtures to separate; 0 for that of the part.
        quick: Number of mixtures that are separated unless all runs are requested; 0 for `mixtures`.
        seconds: Estimated time of one mixture on two CPU cores, for the plan.
        cheap: Whether it is run however long it takes.
        prefix: Prefix of its scores in the results: `codec_` for the codec's reconstructions of the sources.
        note: Remark.
    """

    name: str
    group: str = "other"
    paper: dict[str, float | str] = dataclasses.field(default_factory=dict)
    runs: list[Run] = dataclasses.field(default_factory=list)
    mixtures: int = 0
    quick: int = 0
    seconds: float = 1.0
    cheap: bool = False
    prefix: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """A score.

    Args:
        score: Name in results.csv, or `name.set` of a Fréchet distance in summary.json: `fid.estimates`.
        title: Heading, with the unit.
        digits: Number of decimal places.
    """

    score: str
    title: str
    digits: int = 2


@dataclasses.dataclass(frozen=True)
class Part:
    """Part of a table or figure with the methods for one dataset.

    Args:
        name: Name of the dataset, for the caption.
        dataset: Folder of the dataset in experiments and runs.
        rows: Methods.
        columns: Scores; intervals and differences are those of the first.
        reference: Name of the row to which differences are taken.
        mixtures: Number of mixtures to separate.
        examples: Number of mixtures in a figure.
        options: Options of all runs of the part, after their own; `{folder}` stands for the results folder of the run.
        note: Remark below the table.
    """

    name: str
    dataset: str
    rows: list[Row]
    columns: list[Column] = dataclasses.field(default_factory=list)
    reference: str = ""
    mixtures: int = 1000
    examples: int = 8
    options: str = ""
    note: str = ""

    def num_mixtures(self, row: Row) -> int:
        """Number of mixtures that a complete row has."""
        return row.mixtures or self.mixtures


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """A row of the table of likelihoods.

    Args:
        name: Name of the dataset.
        paper_codes: K in the paper.
        paper_density: Density in the paper, in percent.
        counts: Files of counts, in order of preference.
        log: Folder of the stage that counted the first of them, with the logged coverage.
        train: Commands that make the counts.
    """

    name: str
    paper_codes: int
    paper_density: float
    counts: list[str]
    log: str = ""
    train: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table or figure.

    Args:
        key: Name of its file: `table-2`.
        title: Caption.
        kind: `scores`, `likelihoods` (Table 1) or `separations` (a figure).
        parts: Parts of a table of scores or of a figure.
        likelihoods: Rows of a table of likelihoods.
        note: Remark below the title.
    """

    key: str
    title: str
    kind: str = "scores"
    parts: list[Part] = dataclasses.field(default_factory=list)
    likelihoods: list[Likelihood] = dataclasses.field(default_factory=list)
    note: str = ""


def load_table(key: str, folder: str | Path = FOLDER) -> Table:
    """Read the definition of a table or figure.

    Args:
        key: Its name, `table-2` or `figure-3`; a number alone is that of a table.
        folder: Folder of the definitions.

    Raises:
        LassError: if there is none of this name, or if its file has unknown, missing or wrong entries.
    """
    key = f"table-{key}" if key.isdecimal() else key
    known = all_tables(folder)
    if key not in known:
        raise LassError(f"There is no table or figure {key!r}: expected one of {', '.join(known)}.")
    path = Path(folder) / f"{key}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise LassError(f"{path} cannot be read ({' '.join(str(error).split())}): expected YAML.") from error
    table = _build(Table, {"key": key, **_mapping(content, path)}, str(path))
    _check(table, path)
    return dataclasses.replace(table, parts=[_with_options(part) for part in table.parts])


def all_tables(folder: str | Path = FOLDER) -> list[str]:
    """Names of all tables and figures, sorted, tables first."""
    return sorted((path.stem for path in Path(folder).glob("*.yaml")), key=lambda key: (key[0] != "t", key))


def _mapping(content: object, where: object) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise LassError(f"{where} holds a {type(content).__name__}: expected names with values.")
    return dict(content)


#: Classes of the items of lists, by the name of the entry
ITEMS: dict[str, type[Any]] = {"runs": Run, "rows": Row, "columns": Column, "parts": Part, "likelihoods": Likelihood}


def _build(cls: type[T], content: object, where: str) -> T:
    """Build a dataclass from a mapping, and its lists of dataclasses recursively."""
    values = _mapping(content, where)
    fields = cls.__dataclass_fields__
    unknown = [str(name) for name in values if name not in fields]
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is field.default_factory is dataclasses.MISSING
    ]
    if unknown or missing:
        reason = f"has no entry {missing[0]!r}" if missing else f"has an unknown entry {unknown[0]!r}"
        raise LassError(f"{where} {reason}: expected {', '.join(fields)}.")
    for name, value in values.items():
        values[name] = _converted(name, value, str(fields[name].type), f"{where}, {name}")
    return cls(**values)


def _converted(name: str, value: object, kind: str, where: str) -> object:
    if kind in ("int", "float"):
        check_number(where, value, at_least=0, whole=kind == "int")
        return value if kind == "int" else float(cast(float, value))
    expected = {"str": str, "bool": bool}.get(kind, dict if kind.startswith("dict") else list)
    if not isinstance(value, expected):
        raise LassError(f"{where} is {value!r:.80}: expected a value of type {expected.__name__}.")
    if name in ITEMS and isinstance(value, list):
        return [_build(ITEMS[name], item, f"{where} {number}") for number, item in enumerate(value, 1)]
    if isinstance(value, list):
        return [str(item) for item in value]
    if isinstance(value, dict):  # values of the paper
        return {str(score): number if isinstance(number, float) else str(number) for score, number in value.items()}
    return value


def _with_options(part: Part) -> Part:
    """Add the options of a part to those of its runs."""

    def extended(run: Run) -> Run:
        common = part.options.replace("{folder}", run.folder)
        return dataclasses.replace(run, options=f"{run.options} {common}".strip())

    rows = [dataclasses.replace(row, runs=[extended(run) for run in row.runs]) for row in part.rows]
    return dataclasses.replace(part, rows=rows)


def _check(table: Table, path: Path) -> None:
    """Raise LassError if the entries contradict each other."""
    if table.kind not in KINDS:
        raise LassError(f"{path} is of kind {table.kind!r}: expected one of {', '.join(KINDS)}.")
    for part in table.parts:
        names = [row.name for row in part.rows]
        if len({*names}) < len(names):
            raise LassError(f"{path}, {part.name} has two rows of one name: expected different names.")
        if part.reference and part.reference not in names:
            raise LassError(f"{path}, {part.name} has no row {part.reference!r} to take differences to.")
        for row in part.rows:
            for run in row.runs:
                if run.command.split()[:1] != ["make"]:
                    raise LassError(f"{path}, {row.name} has the command {run.command!r}: expected `make TARGET`.")
