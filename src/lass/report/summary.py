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
DISTANCES = {
    "fid": "FID (Fréchet inception distance)",
    "frechet_small": "Fréchet distance on features of a small network, not FID",
}


def describe_summary(folder: str | Path, summary: dict[str, Any]) -> str:
    """The scores of a results folder as a small table, and where to look."""
    num = summary["psnr_db"]["num"]
    lines = [f"Separated {num} mixtures of two sources each. PSNR per source, in dB, mean ± standard deviation:"]
    for name, label in LABELS.items():
        lines.append(f"  {label:<40} {summary[name]['mean']:6.2f} ± {summary[name]['std']:.2f}")
    for name, title in DISTANCES.items():
        if name in summary:
            lines += [f"{title}, to the {2 * num} sources:"]
            labelled = zip(LABELS.values(), summary[name].values(), strict=True)
            lines += [f"  {label:<40} {distance:8.4g}" for label, distance in labelled]
    lines += [f"Picture: {ResultsFolder(folder).figure}", f"Table:   {Path(folder) / 'results.csv'}"]
    return "\n".join(["", *lines])
