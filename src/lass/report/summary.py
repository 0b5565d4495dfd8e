"""A few lines that say what a separation run came to. `python -m lass.report.summary FOLDER` says it again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lass.artifacts import read_json
from lass.errors import LassError
from lass.report.results import ResultsFolder

LABELS = {
    "psnr_db": "estimates",
    "average_psnr_db": "average baseline (the mixture itself)",
    "codec_psnr_db": "codec's reconstruction (the ceiling)",
}


def describe_summary(folder: str | Path, summary: dict[str, Any]) -> str:
    """The scores of a results folder as a small table, and where to look."""
    num = next(iter(summary.values()))["num"]
    lines = [f"Separated {num} mixtures of two sources each. PSNR per source, in dB, mean ± standard deviation:"]
    lines += [f"  {LABELS[name]:<40} {score['mean']:6.2f} ± {score['std']:.2f}" for name, score in summary.items()]
    lines += [f"Picture: {ResultsFolder(folder).figure}", f"Table:   {Path(folder) / 'results.csv'}"]
    return "\n".join(["", *lines])


def main(arguments: list[str] | None = None) -> None:
    """Print the summary of a finished run."""
    parser = argparse.ArgumentParser(
        prog="python -m lass.report.summary", description="Say what a separation run came to."
    )
    parser.add_argument("folder", type=Path, help="results folder, e.g. runs/mnist/separate")
    folder = parser.parse_args(arguments).folder
    try:
        print(describe_summary(folder, read_json(folder / "summary.json", "summary of a separation run")))
    except LassError as error:
        sys.exit(f"lass: {error}")


if __name__ == "__main__":
    main()
