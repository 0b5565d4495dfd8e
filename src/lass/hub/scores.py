"""Scores of an evaluation, as they are in its results folder, for the model card."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult

from lass.artifacts import read_json
from lass.errors import LassError

BASELINES = {"average_": "the mixture itself as every estimate", "codec_": "the codec's reconstruction of the sources"}
NAMES = {"si_sdri": "SI-SDRi", "si_sdr": "SI-SDR", "sdr": "SDR", "psnr": "PSNR"}  # prefixes in this order


class Score(NamedTuple):
    """One score: its mean over mixtures, or the FID of all of them, which has neither deviation nor number."""

    name: str
    mean: float
    std: float | None = None
    num: int | None = None

    @property
    def label(self) -> str:
        """Name in words: "PSNR in dB", "SDR of drums in dB", "PSNR in dB, of the mixture itself as every estimate"."""
        if self.name == "fid":
            return "FID"
        baseline = next((prefix for prefix in BASELINES if self.name.startswith(prefix)), "")
        score = self.name.removeprefix(baseline).removesuffix("_db")
        known = next(prefix for prefix in (*NAMES, score) if f"{score}_".startswith(f"{prefix}_"))
        source = score.removeprefix(known).removeprefix("_")
        words = NAMES.get(known, known) + (f" of {source}" if source else "")
        return f"{words} in dB" + (f", of {BASELINES[baseline]}" if baseline else "")


class Evaluation(NamedTuple):
    """Finite scores of one evaluation, and the data it was made on."""

    dataset: str
    split: str | None
    scores: list[Score]

    @classmethod
    def read(cls, results: str | Path) -> Evaluation:
        """Read a results folder of `lass predict`: summary.json, and the names of its data, if they are stored.

        Raises:
            LassError: if there is no summary, or it is damaged.
        """
        folder = Path(results)
        summary = read_json(folder / "summary.json", "summary of results")
        scores = [_score(name, value, folder) for name, value in summary.items() if name.endswith("_db")]
        fid = summary.get("fid")
        if isinstance(fid, dict) and isinstance(fid.get("estimates"), int | float):
            scores.append(Score("fid", float(fid["estimates"])))
        settings = folder / "settings.json"
        split = read_json(settings, "run's settings").get("mixtures_of") if settings.is_file() else None
        finite = [score for score in scores if math.isfinite(score.mean)]
        return cls(_dataset(folder / "config.yaml"), split if isinstance(split, str) else None, finite)

    def as_eval_results(self, task: str) -> list[EvalResult]:
        """Return the scores of the estimates, without those of the baselines, as metadata of the Hub."""
        return [
            EvalResult(
                task_type=task,
                task_name="Source separation",
                dataset_type=self.dataset.lower(),
                dataset_name=self.dataset,
                dataset_split=self.split,
                metric_type=score.name,
                metric_name=score.label + (f", mean over {score.num} mixtures" if score.num else ""),
                metric_value=round(score.mean, 3),
            )
            for score in self.scores
            if not score.name.startswith(tuple(BASELINES))
        ]

    def as_table(self) -> str:
        """Return all scores as a Markdown table."""
        data = self.dataset + (f", {self.split}" if self.split else "")
        rows = [f"| {data} | mean ± standard deviation | mixtures |", "|---|---|---|"]
        for score in self.scores:
            spread = "" if score.std is None else f" ± {score.std:.2f}"
            rows.append(f"| {score.label} | {score.mean:.2f}{spread} | {'' if score.num is None else score.num} |")
        return "\n".join(rows)


def _score(name: str, value: Any, folder: Path) -> Score:
    try:
        return Score(name, float(value["mean"]), float(value["std"]), int(value["num"]))
    except (TypeError, KeyError, ValueError) as error:
        raise LassError(
            f"{folder / 'summary.json'} holds no mean, std and num of {name}: name a results folder of `lass predict`."
        ) from error


def _dataset(config: Path) -> str:
    """Class name of the data module in the resolved config of a run, e.g. MNIST."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        return str(content["data"]["class_path"]).rpartition(".")[2]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return "test mixtures"
