"""Training of networks on mixtures: loss, what is learned, resumption, refusals, and stage 4 with the result."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from pytorch_lightning import Trainer, seed_everything
from test_configs import layered
from tiny_datasets import write_tiny_slakh
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr
from trainings import Noise, StopBefore, fit
from two_bands import TwoBands, tiny

from lass import LassError
from lass.artifacts import fingerprint, load_artifact
from lass.cli.main import main
from lass.data.mixing import mix
from lass.data.sources import SourceTuples
from lass.tasks import SupervisedTraining
from lass.tasks.supervised import separation_loss

# 24 tuples in batches of 10 are three batches per epoch.
STEPS = {"max_steps": 12, "val_check_interval": 2, "check_val_every_n_epoch": None, "gradient_clip_val": 5.0}


class Stopped(Exception):
    """Raised by tests to end a training."""


def stop():
    raise Stopped


def signals(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_negative_si_sdr_of_each_estimate_for_its_own_source():
    """Compared with the formula in NumPy, and its gradient with finite differences."""
    estimates, sources = signals(3, 2, 1, 50), signals(3, 2, 1, 50, seed=1)
    total = 0.0
    for estimate, source in zip(estimates.flatten(0, 2).numpy(), sources.flatten(0, 2).numpy(), strict=True):
        target = (estimate @ source) / (source @ source) * source
        total += 10 * np.log10((target @ target) / ((estimate - target) @ (estimate - target)))
    found = separation_loss("si_sdr", estimates, sources)
    assert found.item() == pytest.approx(-total / 6, abs=1e-5)
    assert separation_loss("si_sdr", -3 * estimates, sources).item() == pytest.approx(found.item(), abs=1e-5)
    assert separation_loss("si_sdr", estimates.flip(1), sources).item() != pytest.approx(found.item(), abs=1e-2)
    absolute = np.abs(estimates.numpy() - sources.numpy()).mean()
    assert separation_loss("l1", estimates, sources).item() == pytest.approx(absolute, abs=1e-9)
    few, truth = estimates[:1, ..., :20].clone().requires_grad_(), sources[:1, ..., :20]
    for loss in ("si_sdr", "l1"):
        assert torch.autograd.gradcheck(lambda x, loss=loss: separation_loss(loss, x, truth), few)


def test_a_silent_source_or_estimate_has_a_finite_loss_and_gradient():
    estimates, sources = torch.randn(2, 2, 1, 50), torch.randn(2, 2, 1, 50)
    estimates[0, 0], sources[1, 1] = 0, 0
    estimates.requires_grad_()
    separation_loss("si_sdr", estimates, sources).backward()
    assert estimates.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "loss", "classes", "learning_rate"),
    [
        ("conv-tasnet", "l1", ("low", "high"), 1e-2),
        ("conv-tasnet", "si_sdr", ("high", "low"), 1e-2),
        ("demucs", "si_sdr", ("low", "high"), 2e-2),
    ],
)
def test_a_network_learns_to_separate_and_which_class_is_which(name, loss, classes, learning_rate, tmp_path):
    """Two frequency bands, held-out mixtures: SI-SDR of about 0 dB for the mixture, at the scale of the sources."""
    seed_everything(0, verbose=False)
    module = SupervisedTraining(tiny(name, classes, rescale=loss == "si_sdr"), loss, learning_rate, warmup_steps=5)
    options = {"max_steps": 70, "limit_val_batches": 0, "gradient_clip_val": 5.0, "accelerator": "cpu"}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(default_root_dir=tmp_path, **options, **quiet).fit(module, TwoBands(classes, batch_size=4))
    sources = torch.cat([batch.signals for batch in TwoBands(classes).predict_dataloader()])
    mixtures = mix(sources)
    estimates = load_artifact(tmp_path / "network", "network").separate_batch(mixtures).estimates
    score = si_sdr(estimates, sources).mean(0)[:, 0]
    average = si_sdr(mixtures[:, None].expand_as(sources), sources).mean(0)[:, 0]
    assert (score - average > 4).all(), (score, average)
    assert (si_sdr(estimates.flip(1), sources).mean(0) < average[:, None] - 3).all()  # in the other order
    power = estimates.square().mean((0, 2, 3)) / sources.square().mean((0, 2, 3))
    assert (power.log10().abs() < 0.2).all(), power


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    """Resumed from the checkpoint of the last validation, in the middle of an epoch, with another process seed."""
    whole, _ = fit("network", tmp_path / "whole", **STEPS)
    with pytest.raises(Stopped):
        fit("network", tmp_path / "run", StopBefore(9, stop), **STEPS)
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 8
    resumed, trainer = fit("network", tmp_path / "run", ckpt_path=last, seed=99, **STEPS)
    assert trainer.global_step == 12
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, msg=name)
    assert set(trainer.callback_metrics) >= {"val/loss", "val/si_sdr_db", "val/si_sdr_low_db", "val/si_sdr_high_db"}
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    exported = load_artifact(tmp_path / "run/network", "network").state_dict()
    assert all(torch.equal(tensor, best[f"artifact.{name}"]) for name, tensor in exported.items())


def test_a_diverged_training_stops_with_one_sentence(tmp_path):
    options = {"learning_rate": 1e30, "warmup_steps": 0}
    with pytest.raises(LassError, match=r"^The training diverged, .* at step \d+: set a smaller [^\n]*\.$"):
        fit("network", tmp_path / "run", options=options, max_steps=50, limit_val_batches=0)


def test_the_mixtures_have_the_weights_of_the_data():
    """The loss of a step is that of the network's output for weighted mixtures."""
    weights, sources = [0.7, 0.2], signals(2, 2, 1, 500).float()
    module = SupervisedTraining(tiny(weights=weights))
    module.log = lambda *arguments, **options: None
    module.weights = weights
    expected = separation_loss("si_sdr", module.artifact(0.7 * sources[:, 0] + 0.2 * sources[:, 1]), sources)
    batch = SourceTuples(sources, torch.arange(2).expand(2, -1), torch.full((2,), -1))
    torch.testing.assert_close(module.training_step(batch), expected)
    padding = SourceTuples(*(field[:0] for field in batch))
    module.training_step(padding).backward()  # on one rank of a distributed run
    assert not any(parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: TwoBands(tuples=False), "known sources: set --data.tuples=true"),
        (lambda: TwoBands(("high", "low")), "for classes = .* but the data has"),
        (lambda: TwoBands(weights=[0.3, 0.7]), "for weights = .* but the data has"),
        (lambda: Noise(tuples=True), "separates audio, but Noise has no sample rate"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_anything_is_written(data, words, tmp_path):
    with pytest.raises(LassError, match=words):
        Trainer(default_root_dir=tmp_path / "run", logger=False).fit(SupervisedTraining(tiny()), data())
    assert not (tmp_path / "run").exists()


def test_mixed_precision_is_taken_and_true_half_precision_refused(tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    Trainer(default_root_dir=tmp_path, precision="bf16-mixed", max_steps=1, **quiet).fit(
        SupervisedTraining(tiny()), TwoBands()
    )
    assert load_artifact(tmp_path / "network", "network").separate_batch(torch.rand(1, 1, 9)).estimates.isfinite().all()
    with pytest.raises(LassError, match=r"not trained in bf16-true, .*: set --trainer.precision=bf16-mixed or 32-true"):
        Trainer(default_root_dir=tmp_path, precision="bf16-true", **quiet).fit(SupervisedTraining(tiny()), TwoBands())


def test_unknown_losses_and_undetermined_scales_are_refused():
    with pytest.raises(LassError, match="does not determine the scale of the estimates: set rescale=true"):
        SupervisedTraining(tiny(rescale=False), "si_sdr")
    SupervisedTraining(tiny(rescale=False), "l1")


def test_checkpoints_of_another_network_are_refused(tmp_path):
    fit("network", tmp_path / "run", max_steps=1)
    module = SupervisedTraining(tiny(num_features=16))
    with pytest.raises(LassError, match="of a network with num_features = 24, but this run's has 16"):
        Trainer(default_root_dir=tmp_path, logger=False).fit(
            module, TwoBands(), ckpt_path=tmp_path / "run/checkpoints/last.ckpt"
        )


SMALL = {
    "conv-tasnet": ["num_filters=16", "num_features=8", "num_hidden=8", "num_layers=2", "num_stacks=1"],
    "demucs": ["channels=4", "window=1024"],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_trained_and_evaluated_with_the_configs_of_the_experiment(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_slakh(tmp_path)
    few = ["--data.seconds=0.5", "--data.batch_size=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    options = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--data.hop_seconds=0.5"]
    options += [f"--model.network.{each}" for each in [*SMALL[name], "num_samples=8000"]]
    main(["fit", "-c", str(REPOSITORY / f"experiments/slakh/{name}.yaml"), *few, *options])
    network = load_artifact(f"runs/slakh/supervised-{name}/network", "network")
    assert network.classes == ["drums", "bass"]

    layers = layered(REPOSITORY / f"experiments/slakh/methods/{name}.yaml")
    main([*layers, *few, "--data.num_mixtures=1"])
    with open(f"runs/slakh/{name}/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    assert {"sdr_db", "si_sdr_drums_db", "si_sdr_bass_db", "average_sdr_db"} <= rows[0].keys()
    settings = json.loads((tmp_path / f"runs/slakh/{name}/settings.json").read_text())
    assert settings["method.network"] == fingerprint(network)
    assert fingerprint(load_artifact(f"runs/slakh/{name}/method", "network")) == fingerprint(network)
    with pytest.raises(SystemExit, match=r"network is for classes = .*: set --data.classes to the network's"):
        main([*layers, *few, "--data.classes=[bass,drums]", "--trainer.default_root_dir=other"])
