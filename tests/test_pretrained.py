"""Shipped models: small, safe to load, equal in settings to the experiments, and able to separate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from PIL import Image, ImageDraw
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from lass import Separator, SparseCounts, read_image
from lass.artifacts import build, fingerprint, load_artifact
from lass.data.mixing import mix
from lass.likelihood import AdditiveLikelihood
from lass.metrics import psnr
from lass.metrics.frechet import FrechetDistances
from lass.samplers import Sampler, SequentialMonteCarlo
from lass.separation import ClosestToMixture, HighestScore, Refinement, WienerFilter


@pytest.fixture(scope="module")
def folder():
    return REPOSITORY / "pretrained" / "mnist"


def test_it_is_small_and_holds_nothing_but_safetensors_and_text(folder):
    files = [path for path in folder.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md"}


def test_the_shipped_features_are_the_experiments_and_tell_mixtures_apart(folder, repository):
    """The Fréchet distance between two sets of images is smaller than the distance to their mixtures."""
    config = yaml.safe_load((repository / "experiments/celeba/separate.yaml").read_text())["model"]["init_args"]
    features = load_artifact(repository / config["features"], "features")
    made = yaml.safe_load((repository / "experiments/celeba/features.yaml").read_text())["model"]["init_args"]
    assert features.config == made["features"]["init_args"]
    torch.manual_seed(0)
    # Smooth random images replace faces, which cannot be shipped.
    pictures = torch.nn.functional.interpolate(torch.rand(400, 3, 4, 4), size=32, mode="bilinear")
    some, others = pictures.chunk(2)
    distances = FrechetDistances(features, ["others", "mixtures"])
    distances.update(some, {"others": others, "mixtures": mix(torch.stack([others, others.roll(1, 0)], 1))})
    found = distances.compute()
    assert found["others"] < 0.5 * found["mixtures"]


def test_its_settings_are_those_of_the_experiment(folder, repository):
    separator = Separator.from_pretrained(folder)
    config = yaml.safe_load((repository / "experiments/mnist/separate.yaml").read_text())["model"]["init_args"]
    assert (separator.likelihood_weight, separator.posterior_mean) == (
        config["likelihood_weight"],
        config["posterior_mean"],
    )
    assert "selection" not in config
    assert separator.selection == ClosestToMixture()
    for part in ("sampler", "refinement"):
        name = config[part]["class_path"].rpartition(".")[2]
        protocol = {"sampler": Sampler, "refinement": Refinement}[part]
        assert getattr(separator, part) == build({"class": name, **config[part]["init_args"]}, folder, protocol)
    assert isinstance(separator.likelihood, AdditiveLikelihood)


def test_all_parts_belong_to_one_codec(folder):
    separator = Separator.from_pretrained(folder)
    counts = SparseCounts.load(folder / "counts.safetensors")
    parts = (*separator.priors, separator.likelihood, counts)
    assert {part.codec_fingerprint for part in parts} == {fingerprint(separator.codec)}


def drawn(*points, closed=False):
    """Draw a digit from strokes, (1, 28, 28)."""
    canvas = Image.new("L", (280, 280))
    pen = ImageDraw.Draw(canvas)
    pen.ellipse(points, outline=255, width=26) if closed else pen.line(points, fill=255, width=26, joint="curve")
    pixels = canvas.resize((28, 28), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(pixels, dtype=np.float32) / 255)[None]


def test_digits_that_are_not_of_mnist_come_apart(folder):
    """Drawn digits are separated: with 128 candidates both are above 33 dB, and the mixture itself is at 15 dB."""
    zero, seven = drawn(85, 55, 195, 225, closed=True), drawn(75, 70, 200, 70, 120, 230)
    separator = Separator.from_pretrained(folder)
    separator.sampler = SequentialMonteCarlo(128)
    estimates = separator.separate((zero + seven) / 2).estimates
    scores = [psnr(order, torch.stack([zero, seven])).min() for order in (estimates, estimates.flip(0))]
    assert max(scores) > 28


def test_the_picture_of_the_readme_comes_apart(folder, repository):
    separator = Separator.from_pretrained(folder)
    separator.sampler = SequentialMonteCarlo(128)
    estimates = separator.separate(read_image(repository / "docs" / "mixture.png")).estimates
    assert estimates.flatten(1).std(dim=1).min() > 0.15  # neither is empty
    assert torch.corrcoef(estimates.flatten(1))[0, 1] < 0.6  # the estimates differ


@pytest.fixture
def band():
    return Separator.from_pretrained(REPOSITORY / "pretrained" / "slakh_like")


def test_the_settings_for_songs_are_those_of_the_experiment(band, repository):
    config = yaml.safe_load((repository / "experiments/slakh_spectrogram/separate.yaml").read_text())
    config = config["model"]["init_args"]
    names = ("likelihood_weight", "posterior_mean", "source_names")
    assert [getattr(band, name) for name in names] == [config[name] for name in names]
    assert band.sampler == SequentialMonteCarlo(**config["sampler"]["init_args"])
    assert band.refinement == WienerFilter(**config["refinement"]["init_args"])
    assert config["selection"] == "lass.separation.HighestScore"
    assert band.selection == HighestScore()


def test_bursts_of_noise_are_taken_for_drums_and_a_low_tone_for_bass(band):
    """Sounds that were not rendered from any song: each source comes out at least 5 dB better than in the mixture."""
    time = torch.arange(22050) / 22050
    tone = sum(0.2 / k * torch.sin(2 * torch.pi * 82.4 * k * time) for k in (1, 2, 3, 4))
    noise = torch.randn(22050, generator=torch.Generator().manual_seed(0))
    sources = torch.stack([0.4 * torch.exp(-25 * (time % 0.5)) * noise, tone])[:, None]
    mixture = sources.mean(0)
    estimates = band.separate(mixture).estimates
    before, after = (scale_invariant_signal_distortion_ratio(x, sources) for x in (mixture.expand(2, 1, -1), estimates))
    assert (after - before).min() > 5  # 9.7 dB or more with four seeds
