"""Networks trained on mixtures: scale of the estimates, long and short signals, and files."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from test_damaged_files import damaged
from torch import nn
from two_bands import LENGTH, RATE, TINY, TwoBands, noise_in, tiny

from lass import LassError
from lass.artifacts import CONFIG_FILE, WEIGHTS_FILE, fingerprint
from lass.data.mixing import mix
from lass.methods import ConvTasNet, Demucs, SeparationMethod, SupervisedSeparator
from lass.methods.chunks import overlap_add
from lass.methods.protocol import DataCheckingMethod, groups_of, identity_of
from lass.methods.supervised import rescaled

NETWORKS = tuple(TINY)


def two_sources(num=3):
    return torch.stack([noise_in("low", num, 1), noise_in("high", num, 2)], 1)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, 0.2]])
def test_estimates_of_any_scale_and_sign_are_rescaled_to_the_sources(weights):
    """Up to a thousandth, by which the penalty shrinks the gains of orthogonal estimates."""
    sources = two_sources()
    scaled = sources[:, :, 0] * torch.tensor([3.0, -0.01])[:, None]
    found = rescaled(scaled, mix(sources, weights)[:, 0], weights)
    torch.testing.assert_close(found, sources[:, :, 0], atol=1e-3, rtol=2e-3)


def test_rescaled_estimates_fit_the_mixture_as_least_squares_does():
    """Compared with NumPy's solution, for correlated estimates."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(2, 3, 1000, generator=generator)
    estimates = sources + 0.4 * sources.roll(1, 1)
    mixtures, weights = sources.mean(1), [1 / 3] * 3
    found = rescaled(estimates, mixtures, weights)
    for i in range(2):
        parts = estimates[i].double().numpy().T / 3
        gains = np.linalg.lstsq(parts, mixtures[i].double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(found[i], gains[:, None] * estimates[i].numpy(), rtol=5e-3, atol=5e-3)


def test_silent_and_equal_estimates_have_bounded_gains():
    mixture = noise_in("low", 1, 0)[:, 0]
    for estimates in (torch.stack([mixture, torch.zeros_like(mixture)], 1), torch.zeros(1, 2, LENGTH)):
        found = rescaled(estimates, mixture, [0.5, 0.5])
        assert not found[:, 1].any()
        torch.testing.assert_close(found[:, 0], 2 * estimates[:, 0], rtol=2e-3, atol=1e-6)
    equal = rescaled(torch.stack([mixture, mixture], 1), mixture, [0.5, 0.5])
    torch.testing.assert_close(equal, torch.stack([mixture, mixture], 1), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("total", "length"), [(1, 10), (10, 10), (11, 10), (37, 10), (37, 7), (5, 1), (9, 2)])
def test_overlapping_chunks_are_cross_faded(total, length):
    """Compared with a loop over samples, for a function that depends on the position in a chunk."""
    signal = torch.randn(2, 1, total, generator=torch.Generator().manual_seed(0))

    def separate(chunk):
        ramp = torch.arange(1.0, chunk.shape[-1] + 1)
        return torch.stack([chunk, chunk * ramp], 1)

    found = overlap_add(separate, signal, length)
    if total <= length:
        torch.testing.assert_close(found, separate(signal))
        return
    hop = max(1, length // 2)
    for sample in range(total):
        positions = [sample - start for start in range(0, total, hop) if 0 <= sample - start < length]
        positions = [p for p in positions if sample - p < total - length + hop]  # no chunk starts later
        weights = [min(p + 1, length - p) for p in positions]
        expected = sum(w * (p + 1) for w, p in zip(weights, positions, strict=True)) / sum(weights)
        torch.testing.assert_close(found[:, 0, 0, sample], signal[:, 0, sample])
        torch.testing.assert_close(found[:, 1, 0, sample], signal[:, 0, sample] * expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_a_separation_method_with_fixed_roles(name):
    network = tiny(name).eval()
    assert isinstance(network, SeparationMethod)
    assert isinstance(network, DataCheckingMethod)
    assert groups_of(network, None, 3, 2).tolist() == [[0, 1]] * 3
    mixtures = mix(two_sources())
    together = network.separate_batch(mixtures, seed=1, indices=[4, 5, 6]).estimates
    assert together.shape == (3, 2, 1, LENGTH)
    alone = torch.cat([network.separate_batch(mixture[None]).estimates for mixture in mixtures])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-3)
    assert network.separate_batch(mixtures[:1, :, :3]).estimates.shape == (1, 2, 1, 3)
    assert network.separate_batch(torch.zeros(1, 1, LENGTH)).estimates.isfinite().all()


def test_signals_longer_than_the_chunks_of_the_training_are_separated_in_such_chunks():
    class Halves(nn.Module):
        lengths = []  # noqa: RUF012

        def forward(self, mixtures):
            self.lengths.append(mixtures.shape[-1])
            return torch.stack([mixtures[:, 0], -mixtures[:, 0]], 1)

    network = tiny(num_samples=500, rescale=False)
    network.network = Halves()
    mixtures = mix(two_sources())
    estimates = network.separate_batch(mixtures).estimates
    assert set(Halves.lengths) == {500}
    torch.testing.assert_close(estimates, torch.stack([mixtures, -mixtures], 1))


@pytest.mark.parametrize("shape", [(2, 2, 100), (2, 100), (2, 1, 0), (1, 1, 8, 8)])
def test_signals_that_are_not_mono_are_refused(shape):
    with pytest.raises(LassError, match=r"ConvTasNet separates mono signals: expected mixtures of shape \(mixtures, 1"):
        tiny().separate_batch(torch.zeros(shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_is_the_same(name, tmp_path):
    network = tiny(name, weights=[0.6, 0.4]).eval()
    folder = network.save_pretrained(tmp_path / "network")
    loaded = SupervisedSeparator.from_pretrained(folder)
    assert type(loaded) is type(network)
    assert loaded.config == network.config == json.loads((folder / CONFIG_FILE).read_text())["config"]
    assert not loaded.training
    assert fingerprint(loaded) == fingerprint(network)
    assert identity_of(loaded) == identity_of(network)
    assert identity_of(loaded)["network"] != identity_of(tiny(name))["network"]
    mixtures = mix(two_sources())
    torch.testing.assert_close(loaded.separate_batch(mixtures).estimates, network.separate_batch(mixtures).estimates)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_damaged_files_are_refused_in_one_sentence(file, tmp_path):
    folder = tiny().save_pretrained(tmp_path / "network")
    content = (folder / file).read_bytes()
    sentences = []
    for seed in range(20):
        (folder / file).write_bytes(damaged(content, seed))
        try:
            SupervisedSeparator.from_pretrained(folder)
        except LassError as error:
            sentences.append(str(error))
    assert len(sentences) >= 15  # a change in the whitespace of the JSON may be harmless
    assert all(str(folder) in sentence and "\n" not in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"class": "HDemucs"}, "'HDemucs', which is not among the known ones"),
        ({"class": "torchaudio.models.ConvTasNet"}, "is not among the known ones"),
        ({"class": "Demucs"}, "describes no Demucs|do not have the fingerprint"),
        ({"kind": "prior"}, "not a network"),
        ({"config": {"num_layers": 10**9}}, "fingerprint"),
    ],
)
def test_other_networks_named_in_a_file_are_refused(changed, words, tmp_path):
    folder = tiny().save_pretrained(tmp_path / "network")
    facts = json.loads((folder / CONFIG_FILE).read_text())
    facts["config"] |= changed.pop("config", {})
    (folder / CONFIG_FILE).write_text(json.dumps(facts | changed))
    with pytest.raises(LassError, match=words):
        SupervisedSeparator.from_pretrained(folder)


def test_a_missing_network_is_named_with_the_command_that_trains_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "no network at .*: make it with `make train-supervised DATASET=slakh METHOD=conv-tasnet`, or"
    with pytest.raises(LassError, match=words):
        SupervisedSeparator.from_pretrained("runs/slakh/supervised-conv-tasnet/network")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConvTasNet(["drums"]), "classes must be a list of two or more names"),
        (lambda: ConvTasNet("drums"), "classes must be a list"),
        (lambda: ConvTasNet(["a", "a"]), "a different name for each of 2 sources"),
        (lambda: ConvTasNet(["../a", "b"]), "cannot be the name of a file"),
        (lambda: ConvTasNet(weights=[0.5, 0.6]), "sum of at most 1"),
        (lambda: ConvTasNet(weights=[1.0]), "weights must be 2 numbers"),
        (lambda: ConvTasNet(num_samples=0), "num_samples must be an integer, at least 1"),
        (lambda: ConvTasNet(kernel_size=1), "kernel_size must be an integer, at least 2"),
        (lambda: ConvTasNet(num_layers=100), "num_layers must be an integer, at least 1, at most 16"),
        (lambda: Demucs(channels=6), "channels must be a multiple of 4, not 6"),
        (lambda: Demucs(window=512), "window must be 1024, 2048, 4096 samples, not 512"),
    ],
)
def test_invalid_settings_are_refused(make, words):
    with pytest.raises(LassError, match=words):
        make()


def test_torchaudio_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.models", None)
    with pytest.raises(LassError, match=r"ConvTasNet needs torchaudio .*: install the extra `train` of lass"):
        tiny()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ("high", "low")}, r"for classes = \['low', 'high'\], but the data has \['high', 'low'\]"),
        ({"sample_rate": 2 * RATE}, "for sample_rate = 8000, but the data has 16000: set --data.sample_rate to"),
        ({"weights": [0.7, 0.3]}, r"for weights = \[0.5, 0.5\], but the data has \[0.7, 0.3\]"),
    ],
)
def test_data_of_other_classes_rate_or_weights_is_refused(options, words):
    network = tiny()
    network.check_data(TwoBands())
    network.check_data(TwoBands(weights=[0.5, 0.5]))
    with pytest.raises(LassError, match=words):
        network.check_data(TwoBands(**options))
    with pytest.raises(LassError, match="separates audio, but object has no sample rate"):
        network.check_data(object())
