"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lass.artifacts import atomic_write
from lass.report.tables.definition import SECONDS, Part
from lass.report.tables.lines import Line, has_seconds
from lass.report.tables.statistics import Estimate

Record = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Section:
    """One table in print.

    Args:
        title: Caption.
        header: Names of the columns.
        rows: Cells, one list per row.
        notes: Remarks below the table.
        records: The same rows as unrounded numbers by name, for CSV.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


def section_of(part: Part, lines: Sequence[Line], title: str, notes: Sequence[str] = ()) -> Section:
    """Print the numbers of a part: intervals and differences of the first score, means of the others."""
    with_seconds, first = has_seconds(lines), True
    header, columns = ["method"], [[line.row.name for line in lines]]
    for column in part.columns:
        header.append(column.title)
        columns.append([_mean(line.scores.get(column.score), column.digits) for line in lines])
        if first:
            header.append("95 % interval")
            columns.append([_half_width(line.scores.get(column.score), column.digits) for line in lines])
        if any(column.score in line.row.paper for line in lines):
            header.append("paper")
            columns.append([_paper(line.paper(column.score)) for line in lines])
        if first and part.reference:
            header.append(f"difference to {part.reference}")
            columns.append([_difference(line, column.score, column.digits) for line in lines])
        first = False
    header.append("mixtures")
    columns.append([f"{line.num_mixtures:,}" if line.num_mixtures else "" for line in lines])
    if with_seconds:
        header.append("seconds for one mixture")
        columns.append([_seconds(line.seconds) for line in lines])
        if any(SECONDS in line.row.paper for line in lines):
            header.append("paper, seconds")
            columns.append([_paper(line.paper(SECONDS)) for line in lines])
    if any(line.note for line in lines):
        header.append("remark")
        columns.append([line.note for line in lines])
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    records = [_record(part, line) for line in lines]
    return Section(title, header, rows, [note for note in (*notes, part.note) if note], records)


def _mean(value: Estimate | None, digits: int) -> str:
    if value is None:
        return ""
    deviation = "" if math.isnan(value.deviation) else f" ± {value.deviation:.{digits}f}"
    return f"{_minus(f'{value.mean:.{digits}f}')}{deviation}"


def _half_width(value: Estimate | None, digits: int) -> str:
    return "" if value is None or math.isnan(value.half_width) else f"± {value.half_width:.{digits}f}"


def _difference(line: Line, score: str, digits: int) -> str:
    """Difference with its interval, and the number of common mixtures if it is not that of the row."""
    value = line.differences.get(score)
    if value is None:
        return ""
    common = "" if value.num == line.num_mixtures else f" ({value.num:,})"
    return f"{_minus(f'{value.mean:+.{digits}f}')} {_half_width(value, digits)}".rstrip() + common


def _seconds(value: Estimate | None) -> str:
    if value is None:
        return ""
    digits = 1 if value.mean >= 10 else 2 if value.mean >= 0.1 else 3
    if value.mean < 0.001:
        return "under 0.001"
    return _mean(value, digits)


def _paper(value: float | str | None) -> str:
    return "" if value is None else _minus(str(value))


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _record(part: Part, line: Line) -> Record:
    record: Record = {"part": part.name, "method": line.row.name, "group": line.row.group}
    record["mixtures"] = line.num_mixtures
    for column in part.columns:
        value, difference, name = line.scores.get(column.score), line.differences.get(column.score), column.score
        record |= _numbers(name, value) | {f"{name} paper": line.paper(name)}
        record |= _numbers(f"{name} difference", difference)
    record |= {"seconds": _field(line.seconds, "mean"), "seconds deviation": _field(line.seconds, "deviation")}
    return record | {"seconds paper": line.paper(SECONDS), "remark": line.note}


def _numbers(name: str, value: Estimate | None) -> Record:
    fields = {"mean": "", "deviation": " deviation", "half_width": " half-width of the 95 % interval", "num": " number"}
    return {f"{name}{words}": _field(value, attribute) for attribute, words in fields.items()}


def _field(value: Estimate | None, name: str) -> float | None:
    number = None if value is None else float(getattr(value, name))
    return None if number is None or math.isnan(number) else number


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Tables of GitHub's Markdown under one heading."""
    lines = [f"## {title}"]
    for section in sections:
        lines += ["", f"### {section.title}", "", _markdown_row(section.header), "|" + "---|" * len(section.header)]
        lines += [_markdown_row(row) for row in section.rows]
        for note in section.notes:
            lines += ["", note]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


#: LaTeX for characters that are commands there, or that pdflatex lacks in text
LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "…": r"\dots{}",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "“": "``",
    "”": "''",
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def latex(title: str, sections: Sequence[Section]) -> str:
    """One `table` environment per section, for the package booktabs."""
    blocks = [r"% needs \usepackage{booktabs}"]
    for section in sections:
        notes = "".join(f" {escape_latex(note)}" for note in section.notes)
        caption = f"{escape_latex(f'{title}: {section.title}.')}{notes}"
        body = [" & ".join(map(escape_latex, cells)) + r" \\" for cells in section.rows]
        blocks += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(section.header) - 1)}}}",
            r"\toprule",
            " & ".join(map(escape_latex, section.header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(blocks) + "\n"


def comma_separated(sections: Sequence[Section]) -> str:
    """All rows of all sections with unrounded numbers; a column that a section does not have is empty there."""
    names = list(dict.fromkeys(name for section in sections for record in section.records for name in record))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for section in sections:
        writer.writerows(section.records)
    return file.getvalue()


def write_all(output: Path, key: str, title: str, sections: Sequence[Section]) -> str:
    """Write `key`.md, .tex and .csv, and return the Markdown."""
    text = markdown(title, sections)
    for suffix, content in {"md": text, "tex": latex(title, sections), "csv": comma_separated(sections)}.items():
        with atomic_write(output / f"{key}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
    return text
