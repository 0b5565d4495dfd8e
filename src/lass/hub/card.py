"""Model card of a separator: the README.md of its repository on the Hugging Face Hub."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lass.artifacts import read_json
from lass.errors import LassError
from lass.hub.registry import Kind

TASKS: dict[Kind, str] = {"image": "image-to-image", "audio": "audio-to-audio"}  # of the Hub's list
BASELINES = {"average_": "the mixture itself as every estimate", "codec_": "the codec's reconstruction of the sources"}
UNSTATED = "not stated"

EXAMPLES: dict[Kind, str] = {
    "image": """from lass import Separator, read_image

separator = Separator.from_pretrained("$repository")
estimates = separator.separate(read_image("mixture.png")).estimates  # ($shape)""",
    "audio": """import torch
from lass import Separator

separator = Separator.from_pretrained("$repository")
mixture = torch.zeros(1, 44100)  # mono, $size
estimates = separator.separate(mixture).estimates  # ($shape)""",
}


class Score(NamedTuple):
    """Mean of one score over the mixtures of an evaluation."""

    name: str
    mean: float
    std: float
    num: int


class Evaluated(NamedTuple):
    """Scores of one evaluation, and the data it was made on."""

    dataset: str
    split: str | None
    scores: list[Score]

    @classmethod
    def read(cls, results: str | Path) -> Evaluated:
        """Read a results folder of `lass predict`: summary.json, and the names of its data, if they are stored.

        Raises:
            LassError: if there is no summary, or it is damaged.
        """
        folder = Path(results)
        summary = read_json(folder / "summary.json", "summary of results")
        scores = [_score(name, value, folder) for name, value in summary.items() if name.endswith("_db")]
        settings = folder / "settings.json"
        split = read_json(settings, "run's settings").get("mixtures_of") if settings.is_file() else None
        return cls(_dataset(folder / "config.yaml"), split if isinstance(split, str) else None, scores)

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
                metric_name=f"{_label(score.name)}, mean over {score.num} mixtures",
                metric_value=round(score.mean, 3),
            )
            for score in self.scores
            if not score.name.startswith(tuple(BASELINES)) and math.isfinite(score.mean)
        ]


def model_card(
    repository: str,
    *,
    kind: Kind,
    signal: tuple[int, ...] | int,
    num_sources: int,
    source_names: Sequence[str] | None,
    mixing_weights: Sequence[float] | None,
    parts: Mapping[str, str],
    licence: str | None = None,
    training_data: str | None = None,
    results: str | Path | None = None,
) -> ModelCard:
    """Return the model card of a separator.

    Args:
        repository: Repository on the Hub, organisation/name, for the commands.
        kind: Kind of signal.
        signal: Shape of an image, (channels, height, width), or sample rate of audio in Hz.
        num_sources: Number of sources in a mixture.
        source_names: Names of the sources, if each has its own prior.
        mixing_weights: Weights of the sources in the mixtures; None for their mean.
        parts: What the separator consists of, by role.
        licence: SPDX identifier of the licence of the weights; None if it is not stated.
        training_data: Data that the models were trained on; None if it is not stated.
        results: Results folder of `lass predict`, whose scores are added.

    Raises:
        LassError: if the results cannot be read.
    """
    evaluated = None if results is None else Evaluated.read(results)
    tags = ["source-separation", "vq-vae", "autoregressive", kind, "arxiv:2301.08562"]
    data = ModelCardData(
        license=licence.lower() if licence else None,
        library_name="lass",
        pipeline_tag=TASKS[kind],
        tags=tags,
        model_name=repository.rpartition("/")[2],
        eval_results=evaluated.as_eval_results(TASKS[kind]) or None if evaluated else None,
    )
    if isinstance(signal, tuple):
        size, shape = "×".join(map(str, signal)), ", ".join(map(str, signal))
        signals = f"images of {size} (channels, height, width)"
    else:
        size, shape = f"{signal:,} Hz", "1, samples"
        signals = f"mono audio at {size}"
    names = " and ".join(source_names or ())
    values = {
        "title": data.model_name,
        "repository": repository,
        "sources": names or f"{num_sources} sources",
        "signals": signals,
        "parts": "\n".join(f"| {role} | {part} |" for role, part in parts.items()),
        "mixture": "mixture.png" if kind == "image" else "song.wav",
        "training_data": training_data or UNSTATED,
        "licence": licence or UNSTATED,
        "scores": _table(evaluated) if evaluated else "",
        "weights": f"sums with the weights {mixing_weights}" if mixing_weights else "the mean of their sources",
        "order": f"Only {names} are separated: any other source ends up in an estimate."
        if names
        else "All sources share one prior: the order of the estimates is arbitrary.",
    }
    words = {"repository": repository, "size": size, "shape": f"{num_sources}, {shape}"}
    values["example"] = Template(EXAMPLES[kind]).substitute(words)
    template = files("lass.hub").joinpath("model_card.md").read_text(encoding="utf-8")
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{Template(template).substitute(values)}")


def _table(evaluated: Evaluated) -> str:
    of = evaluated.dataset + (f", {evaluated.split}" if evaluated.split else "")
    rows = [f"| {_label(s.name)} | {s.mean:.2f} ± {s.std:.2f} | {s.num:,} |" for s in evaluated.scores]
    head = [f"| {of} | mean ± standard deviation | mixtures |", "|---|---|---|"]
    return "\n".join(["", "## Scores", "", *head, *rows, ""])


def _label(name: str) -> str:
    """Name of a score in words: "PSNR in dB", "SDR of drums in dB", "SI-SDR in dB, of the mixture itself as …"."""
    prefix = next((prefix for prefix in BASELINES if name.startswith(prefix)), "")
    score = name.removeprefix(prefix).removesuffix("_db")
    for known, words in {"si_sdri": "SI-SDRi", "si_sdr": "SI-SDR", "sdr": "SDR", "psnr": "PSNR"}.items():
        if score == known or score.startswith(f"{known}_"):
            of = score.removeprefix(known).lstrip("_")
            score = f"{words} of {of}" if of else words
            break
    return f"{score} in dB" + (f", of {BASELINES[prefix]}" if prefix else "")


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
