"""What is shipped: small, safe to read, the recipe of the experiment, and able to separate."""

from __future__ import annotations

import pytest
import torch
import yaml

from lass import Separator, SparseCounts, read_image
from lass.artifacts import build, fingerprint
from lass.likelihood import LatentLikelihood
from lass.samplers import SequentialMonteCarlo


@pytest.fixture(scope="module")
def folder():
    from conftest import REPOSITORY

    return REPOSITORY / "pretrained" / "mnist"


def test_it_is_small_and_holds_nothing_but_safetensors_and_text(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md"}


def test_its_settings_are_those_of_the_experiment(folder, repository):
    separator = Separator.from_pretrained(folder)
    config = yaml.safe_load((repository / "experiments/mnist/separate.yaml").read_text())["model"]["init_args"]
    assert separator.likelihood_weight == config["likelihood_weight"]
    for part in ("sampler", "refinement"):
        name = config[part]["class_path"].rpartition(".")[2]
        assert getattr(separator, part) == build({"class": name, **config[part]["init_args"]}, folder)
    assert isinstance(separator.likelihood, LatentLikelihood)


def test_all_parts_belong_to_one_codec(folder):
    separator = Separator.from_pretrained(folder)
    counts = SparseCounts.load(folder / "counts.safetensors")
    parts = (*separator.priors, separator.likelihood, counts)
    assert {part.codec_fingerprint for part in parts} == {fingerprint(separator.codec)}


def test_a_drawn_mixture_comes_apart(folder, repository):
    """docs/mixture.png, drawn with strokes and not from MNIST: a 3 and a 0 over each other."""
    separator = Separator.from_pretrained(folder)
    separator.sampler = SequentialMonteCarlo(128)
    mixture = read_image(repository / "docs" / "mixture.png")
    result = separator.separate(mixture)
    assert result.residual.square().mean().sqrt() < 0.02  # they mix into the mixture,
    assert result.estimates.flatten(1).std(dim=1).min() > 0.15  # neither is empty,
    correlation = torch.corrcoef(result.estimates.flatten(1))[0, 1]
    assert correlation < 0.6  # and they are not twice the same
