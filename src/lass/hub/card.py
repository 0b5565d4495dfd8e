"""Model card of a separator: the README.md of its repository on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from huggingface_hub import ModelCard, ModelCardData

from lass.hub.registry import Kind
from lass.hub.scores import Evaluation

TASKS: dict[Kind, str] = {"image": "image-to-image", "audio": "audio-to-audio"}  # of the Hub's list
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
    evaluation = None if results is None else Evaluation.read(results)
    tags = ["source-separation", "vq-vae", "autoregressive", kind, "arxiv:2301.08562"]
    data = ModelCardData(
        license=licence.lower() if licence else None,
        library_name="lass",
        pipeline_tag=TASKS[kind],
        tags=tags,
        model_name=repository.rpartition("/")[2],
        eval_results=evaluation.as_eval_results(TASKS[kind]) or None if evaluation else None,
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
        "scores": f"\n## Scores\n\n{evaluation.as_table()}\n" if evaluation else "",
        "weights": f"sums with the weights {mixing_weights}" if mixing_weights else "the mean of their sources",
        "order": f"Only {names} are separated: any other source ends up in an estimate."
        if names
        else "All sources share one prior: the order of the estimates is arbitrary.",
    }
    words = {"repository": repository, "size": size, "shape": f"{num_sources}, {shape}"}
    values["example"] = Template(EXAMPLES[kind]).substitute(words)
    template = files("lass.hub").joinpath("model_card.md").read_text(encoding="utf-8")
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{Template(template).substitute(values)}")
