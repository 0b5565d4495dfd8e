"""Fitting of NMF dictionaries through the command line, on a tiny dataset."""

from __future__ import annotations

import pytest
import torch
from tiny_datasets import write_tiny_mnist

from lass import LassError
from lass.cli.main import main
from lass.codecs import load_codec
from lass.data.sources import Sources
from lass.methods import NMF, NMFDictionaries
from lass.tasks import DictionaryFitting

OPTIONS = ["--trainer.enable_progress_bar=false", "--data.batch_size=8", "--data.num_validation=10"]
OPTIONS += ["--model.num_components=3", "--model.max_signals=20", "--model.max_iterations=20"]


@pytest.fixture
def fit(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_mnist(tmp_path)
    config = str(repository / "experiments/mnist/dictionaries.yaml")
    return lambda *options: main(["fit", "-c", config, *OPTIONS, *options])


def test_the_stage_saves_dictionaries_that_separate(fit):
    fit()
    method = NMF("runs/mnist/dictionaries/dictionaries")
    assert method.dictionaries.components.shape == (1, 3, 28 * 28)
    assert method.dictionaries.components.min() >= 0
    mixtures = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert method.separate_batch(mixtures).estimates.shape == (2, 2, 1, 28, 28)


def test_a_dry_run_writes_nothing(fit, tmp_path):
    fit("--trainer.fast_dev_run=true")
    assert not (tmp_path / "runs/mnist/dictionaries/dictionaries").exists()


def test_dictionaries_by_class_take_at_most_max_signals_of_each():
    task = DictionaryFitting(num_components=2, by_class=True, max_signals=5)
    task.on_train_epoch_start()
    labels = torch.tensor([0, 1] * 4)
    signals = labels.float()[:, None, None, None].expand(8, 1, 2, 2) + 0.5
    for _ in range(2):
        task.training_step(Sources(signals, labels))
    assert {label: sum(map(len, group)) for label, group in task._signals.items()} == {0: 5, 1: 5}
    assert all((part == 1.5).all() for part in task._signals[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_components": 0}, "num_components must be"),
        ({"max_signals": 3}, "max_signals must be an integer, at least 16"),
        ({"max_iterations": 0}, "max_iterations must be"),
    ],
)
def test_bad_settings_are_named(options, words):
    with pytest.raises(LassError, match=words):
        DictionaryFitting(**options)


def test_tuples_are_refused():
    with pytest.raises(LassError, match=r"set --data\.tuples=false"):
        DictionaryFitting().training_step(torch.zeros(1))


def test_saved_dictionaries_are_no_codec(tmp_path):
    NMFDictionaries((1, 2, 2), 3).save_pretrained(tmp_path / "dictionaries")
    with pytest.raises(LassError, match="not a codec"):
        load_codec(tmp_path / "dictionaries")
