"""WaveNet as a denoiser: its density, what it learns, files, and PnF with it."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch
from conftest import REPOSITORY
from gaussian_mixtures import GaussianMixture
from test_configs import layered
from tiny_datasets import write_tiny_slakh

from lass import LassError
from lass.cli.main import main
from lass.denoisers import Denoiser, WaveNetDenoiser, load_denoiser
from lass.methods import BASIS, PnF
from lass.samplers.generators import MixtureGenerators


def tiny(shape=(1, 64), **settings):
    torch.manual_seed(0)
    return WaveNetDenoiser(
        shape, 100, **{"width": 6, "num_layers": 2, "num_blocks": 2, "num_components": 3, **settings}
    )


@pytest.mark.parametrize("sigma", [0.05, 0.7])
def test_the_density_integrates_to_one(sigma):
    """Sum over a grid of two samples, of which the second depends on the first."""
    model = tiny(std=0.3)
    axis = torch.linspace(-6, 6, 301)
    with torch.no_grad():
        grid = torch.cartesian_prod(axis, axis)[:, None]
        total = model.log_prob(grid, torch.full((len(grid),), sigma)).double().exp().sum()
    assert total * (axis[1] - axis[0]).double() ** 2 == pytest.approx(1, abs=0.01)


def test_a_sample_depends_on_the_samples_of_its_receptive_field_before_it():
    """By the gradient of the densities of single samples; the last one has the farthest samples at its disposal."""
    model = tiny().double()
    assert model.receptive_field == 1 + 2 * (1 + 2)
    noisy, sigma = torch.randn(1, 1, 20, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    for last in (1, 9, 15, 20):
        part = noisy[..., :last].clone().requires_grad_()
        shorter = model.log_prob(part[..., :-1], sigma) if last > 1 else 0
        (gradient,) = torch.autograd.grad((model.log_prob(part, sigma) - shorter).sum(), part)
        used = gradient.abs().flatten() > 1e-12
        assert used[max(0, last - 1 - model.receptive_field) :].all()
        assert not used[: max(0, last - 1 - model.receptive_field)].any()


def test_a_network_of_an_autoregressive_process_learns_its_expectation():
    """The truth is a Wiener filter; the root mean square difference is below 20 % of that of the noisy sources."""
    torch.manual_seed(0)
    length, std = 16, 0.2
    distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    covariance = std**2 * 0.9**distance
    root = torch.linalg.cholesky(covariance)
    model = WaveNetDenoiser((1, length), 100, 8, 3, 1, 2, std=std, sigma_min=0.05, sigma_max=0.5)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss((torch.randn(64, length) @ root.T)[:, None]).backward()
        optimizer.step()
        schedule.step()
    for sigma in (0.1, 0.25, 0.5):
        noisy = torch.randn(500, length) @ root.T + sigma * torch.randn(500, length)
        truth = noisy @ torch.linalg.inv(covariance + sigma**2 * torch.eye(length)) @ covariance
        found = model.denoise(noisy[:, None], torch.full((500,), sigma))[:, 0]
        error, before = ((signal - truth).square().mean().sqrt().item() for signal in (found, noisy))
        assert error < 0.2 * before, (sigma, error, before)


def test_a_network_is_loaded_as_it_was_saved(tmp_path):
    model = tiny(sigma_min=0.002)
    assert isinstance(model, Denoiser)
    model.save_pretrained(tmp_path / "denoiser")
    noisy, sigma = torch.rand(2, 1, 40), torch.tensor([0.001, 0.5])
    loaded = load_denoiser(tmp_path / "denoiser")
    torch.testing.assert_close(loaded.denoise(noisy, sigma), model.denoise(noisy, sigma), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tiny((2, 8)), r"shape must be \(1, samples\), not \(2, 8\)"),
        (lambda: tiny(num_layers=40), "num_layers must be an integer, at least 1, at most 16"),
        (lambda: tiny(sigma_max=0.001), "sigma_max must be a number, above 0.001"),
        (lambda: tiny().denoise(torch.rand(1, 2, 8), torch.ones(1)), "mono audio, got 2 channels"),
        (lambda: tiny().denoise(torch.rand(1, 1, 8), torch.ones(1), torch.zeros(1).long()), "has no classes"),
        (lambda: PnF(tiny(), window=0), "window must be an integer, at least 1"),
        (lambda: PnF(GaussianMixture((1.0,), (0.2,), (0.4,)), window=9), "GaussianMixture has none"),
    ],
)
def test_bad_input_gives_one_sentence(make, words):
    with pytest.raises(LassError, match=words):
        make()


class NoNoise(MixtureGenerators):
    """Generators of zeros."""

    def normal(self, *shape):
        return super().normal(*shape).zero_()


@pytest.mark.parametrize("window", [7, 64, 100])
def test_a_window_moves_by_the_gradient_of_the_whole_signal(window):
    """Without noise, a step of the windows in turn is that of a literal loop over the whole signal."""
    models = [tiny().double(), tiny(num_blocks=1).double()]
    method = PnF(models, window=window)
    sources, mixtures = torch.randn(2, 2, 1, 64, dtype=torch.float64), torch.randn(2, 1, 64, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)

    for number in range(2):
        moved = method.step(sources, mixtures, weights, number, 0.2, None, NoNoise(0, [0, 1]))
        expected, first = sources, 1 + int(number * 0.6180339887 * window) % window
        for start in sorted({0, *range(first, 64, window)}):
            end = min(64, first if start == 0 else start + window)
            whole = BASIS.step(method, expected, mixtures, weights, number, 0.2, None, NoNoise(0, [0, 1]))
            expected = torch.cat([expected[..., :start], whole[..., start:end], expected[..., end:]], -1)
        torch.testing.assert_close(moved, expected, atol=1e-6, rtol=1e-5)


def test_a_separation_does_not_depend_on_the_batch_or_on_earlier_ones():
    method = PnF([tiny(), tiny(num_blocks=1)], num_levels=3, window=20)
    mixtures = torch.rand(3, 1, 64)
    together = method.separate_batch(mixtures, seed=1, indices=[7, 8, 9]).estimates
    alone = method.separate_batch(mixtures[2:], seed=1, indices=[9]).estimates
    torch.testing.assert_close(together[2:], alone, atol=1e-4, rtol=1e-4)


def test_a_wavenet_is_trained_and_pnf_evaluated_with_the_configs_of_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_slakh(tmp_path)
    few = ["--data.batch_size=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    small = ["--model.denoiser.width=4", "--model.denoiser.num_layers=2", "--trainer.limit_val_batches=1"]
    steps = ["--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    place = ["--data.source=bass", "--trainer.default_root_dir=runs/slakh/wavenet-bass"]
    main(["fit", "-c", str(REPOSITORY / "experiments/slakh/wavenet.yaml"), *few, *small, *steps, *place])
    assert isinstance(load_denoiser("runs/slakh/wavenet-bass/denoiser"), WaveNetDenoiser)
    shutil.copytree("runs/slakh/wavenet-bass", "runs/slakh/wavenet-drums")
    options = ["--data.num_mixtures=1", "--data.seconds=0.1", "--model.method.num_levels=2"]
    main([*layered(REPOSITORY / "experiments/slakh/methods/pnf.yaml"), *few, *options])
    with open("runs/slakh/pnf/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(float(row["sdr_db"]) for row in rows)
