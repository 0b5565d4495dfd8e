"""Training curves of the stages of an experiment: `python -m lass.report.curves runs/mnist`."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure

from lass.errors import LassError
from lass.report.figures import save_figure

LOG_FOLDER, LOG_FILE = "csv", "metrics.csv"  # of Lightning's CSVLogger, in a run's folder

#: Panels as (stage, title, {label: name of the logged score}). Panels without data are omitted.
PANELS = (
    ("vqvae", "codec: PSNR in dB", {"sources": "val/psnr_sources_db", "mixtures": "val/psnr_mixtures_db"}),
    ("vqvae", "codec: SI-SDR in dB", {"sources": "val/si_sdr_sources_db", "mixtures": "val/si_sdr_mixtures_db"}),
    ("vqvae", "codec: perplexity of the codes", {"validation": "codebook/perplexity"}),
    ("prior", "prior: nats per code", {"training": "train/nats_per_code", "validation": "val/nats_per_code"}),
    ("supervised", "network: SI-SDR in dB", {"validation": "val/si_sdr_db"}),
    (
        "likelihood",
        "likelihood: counted before",
        {"triples": "val/coverage", "whole mixtures": "val/mixtures_fully_covered"},
    ),
)

Row = dict[str, float]  # values logged together, by name
Curves = dict[str, list[tuple[float, float]]]  # label of a curve -> its (epoch, value) points


def training_curves(root: str | Path) -> Figure:
    """Plot the logged scores of every stage against epochs, one panel per entry of `PANELS` and per source's prior.

    Args:
        root: folder with the stages' runs, `runs/<dataset>`.

    Raises:
        LassError: if no stage has an offline log.
    """
    panels = _panels(Path(root))
    if not panels:
        raise LassError(
            f"No stage has left a log in {root}: expected files like {root}/vqvae/{LOG_FOLDER}/*/{LOG_FILE}."
        )
    figure = Figure(figsize=(3.4 * len(panels), 2.8))
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for label, points in curves.items():
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2, marker="." if len(points) < 40 else None)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def _panels(root: Path) -> dict[str, Curves]:
    """Return the curves of each panel by its title."""
    folders = {stage: [root / stage, *sorted(root.glob(f"{stage}-*"))] for stage, _, _ in PANELS}
    logs = {folder: _rows(folder) for same in folders.values() for folder in same if (folder / LOG_FOLDER).is_dir()}
    panels = {}
    for stage, title, names in PANELS:
        for folder in [folder for folder in folders[stage] if folder in logs]:
            rows, source = logs[folder], folder.name.removeprefix(stage).removeprefix("-")
            logged = list(zip(_epochs(rows), rows, strict=True))
            curves = {
                label: [(epoch, row[name]) for epoch, row in logged if name in row] for label, name in names.items()
            }
            curves = {label: points for label, points in curves.items() if points}
            if curves:
                panels[f"{title} ({source})" if source else title] = curves
    return panels


def _rows(folder: Path) -> list[Row]:
    """Rows logged by the last training of a stage; a resumed training has one log per start."""
    rows: list[Row] = []
    for log in sorted((folder / LOG_FOLDER).glob(f"version_*/{LOG_FILE}"), key=_version):
        logged = [row for row in _read(log) if {"epoch", "step"} <= row.keys()]
        if logged:  # its first epoch is 0 for a new training, else the epoch after the checkpoint
            rows = [row for row in rows if row["epoch"] < logged[0]["epoch"]] + logged
    return rows


def _version(log: Path) -> int:
    number = log.parent.name.removeprefix("version_")
    return int(number) if number.isdecimal() else -1


def _read(log: Path) -> list[Row]:
    """Rows of a CSV file, without empty cells and cells that are no numbers (as in a line that was cut off)."""
    with open(log, newline="", encoding="utf-8") as file:
        return [
            {name: number for name, cell in row.items() if (number := _number(cell)) is not None}
            for row in csv.DictReader(file)
        ]


def _number(cell: str | None) -> float | None:
    try:
        return float(cell or "")
    except ValueError:
        return None


def _epochs(rows: list[Row]) -> list[float]:
    """Convert the steps of rows to fractional epochs, assuming the same number of steps in every epoch."""
    steps = max((row["step"] for row in rows), default=0) + 1
    if steps == 1:  # the likelihood stage takes no optimizer steps
        return [row["epoch"] + 1 for row in rows]
    per_step = (max(row["epoch"] for row in rows) + 1) / steps
    return [(row["step"] + 1) * per_step for row in rows]


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    options = argparse.ArgumentParser(
        "python -m lass.report.curves", description="Plot the training curves of a dataset."
    )
    options.add_argument("folder", nargs="?", type=Path, default=Path("runs/digits"), help="folder of its stages")
    return options


if __name__ == "__main__":
    try:
        folder = parser().parse_args().folder
        save_figure(training_curves(folder), folder / "curves.png")
        print(f"Picture: {folder / 'curves.png'}")
    except LassError as error:
        sys.exit(f"lass: {error}")
