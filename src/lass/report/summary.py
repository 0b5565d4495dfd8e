"""A few lines that say what a separation run came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lass.report.results import ResultsFolder

LABELS = {
    "psnr_db": "estimates",
    "average_psnr_db": "average baseline (the mixture itself)",
    "codec_psnr_db": "codec's reconstruction of the sources",
}


def describe_summary(folder: str | Path, summary: dict[str, Any]) -> str:
    """The scores of a results folder as a small table, and where to look."""
    num = next(iter(summary.values()))["num"]
    lines = [f"Separated {num} mixtures of two sources each. PSNR per source, in dB, mean ± standard deviation:"]
    lines += [f"  {LABELS[name]:<40} {score['mean']:6.2f} ± {score['std']:.2f}" for name, score in summary.items()]
    lines += [f"Picture: {ResultsFolder(folder).figure}", f"Table:   {Path(folder) / 'results.csv'}"]
    return "\n".join(["", *lines])
