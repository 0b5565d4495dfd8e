"""Text summary of the scores of a separation run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lass.report.results import ResultsFolder

LABELS = {
    "": "estimates",
    "average_": "average baseline (the mixture itself)",
    "codec_": "codec's reconstruction of the sources",
}
SCORES = {
    "psnr_db": "PSNR",
    "sdr_db": "SDR (museval)",
    "si_sdr_db": "SI-SDR",
    "si_sdri_db": "SI-SDR improvement over the mixture (SI-SDRi)",
}
UNDEFINED = {"si_sdri_db": "in which fewer than two sources sound"}  # of other scores: in which a source is silent
DISTANCES = {
    "fid": "FID (Fréchet inception distance)",
    "frechet_small": "Fréchet distance on features of a small network, not FID",
}


def describe_summary(folder: str | Path, summary: dict[str, Any], num_sources: int) -> str:
    """Format the scores of a separation run as text tables, followed by the paths of its figure and its table.

    Args:
        folder: Results folder of the run.
        summary: Statistics of each score, as in summary.json.
        num_sources: Number of sources per mixture.
    """
    scores = [score for score in SCORES if score in summary]
    num = max(summary[score]["num"] for score in scores)
    what = "mixture" if num == 1 else "mixtures"
    lines = [f"Separated {num} {what} of {num_sources} sources each. Per source, mean ± standard deviation:"]
    for score in scores:
        defined = summary[score]["num"]
        lines.append(f"{SCORES[score]} in dB" + _undefined(num - defined, score))
        labelled = {f"{kind}{score}": label for kind, label in LABELS.items()}
        labelled |= {name: f"estimates of {source}" for name, source in _sources(summary, score).items()}
        for name in [name for name in labelled if name in summary]:  # there are codec_ scores only if there is a codec
            lines.append(f"  {labelled[name]:<40} {summary[name]['mean']:6.2f} ± {summary[name]['std']:.2f}")
    for name, title in DISTANCES.items():
        if name in summary:
            lines += [f"{title}, to the {num_sources * num} sources:"]
            distances = zip(LABELS.values(), summary[name].values(), strict=False)  # the last needs a codec
            lines += [f"  {label:<40} {distance:8.4g}" for label, distance in distances]
    lines += [f"Picture: {ResultsFolder(folder).figure}", f"Table:   {Path(folder) / 'results.csv'}"]
    return "\n".join(["", *lines])


def _undefined(num: int, score: str) -> str:
    reason = UNDEFINED.get(score, "in which a source is silent")
    return f"; without {num} mixture{'' if num == 1 else 's'} {reason}" if num else ""


def _sources(summary: dict[str, Any], score: str) -> dict[str, str]:
    """Map the per-source variants of a score to the names of the sources: `{"sdr_drums_db": "drums"}` for `sdr_db`."""
    pattern = re.compile(rf"{score.removesuffix('_db')}_(.+)_db")
    return {name: match[1] for name in summary if (match := pattern.fullmatch(name))}
