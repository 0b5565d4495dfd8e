"""Glow as a denoiser: its density, the score, what it learns, files, and BASIS with it."""

from __future__ import annotations

import csv

import pytest
import torch
from conftest import REPOSITORY
from test_configs import layered
from tiny_datasets import write_tiny_mnist

from lass import LassError
from lass.cli.main import main
from lass.denoisers import Denoiser, GlowDenoiser, load_denoiser, score
from lass.methods import BASIS


def tiny(shape=(1, 4, 4), **settings):
    """Small flow with random weights, also in the last layers of the couplings, which are initially zero."""
    torch.manual_seed(0)
    flow = GlowDenoiser(shape, **{"num_scales": 1, "num_steps": 3, "width": 6, **settings})
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return flow


@pytest.mark.parametrize("sigma", [0.01, 0.7])
def test_the_density_integrates_to_one(sigma):
    """Sum over a grid of four pixels, ±10 standard deviations wide."""
    flow = tiny((1, 2, 2), mean=0.2, std=0.5)
    width = (0.5**2 + sigma**2) ** 0.5
    axis = torch.linspace(-10 * width, 10 * width, 29) + 0.2
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for part in torch.cartesian_prod(axis, axis, axis, axis).split(50_000):
            total += flow.log_prob(part.view(-1, 1, 2, 2), torch.full((len(part),), sigma)).double().exp().sum()
    assert total * (axis[1] - axis[0]).double() ** 4 == pytest.approx(1, abs=0.02)


def test_the_log_density_is_that_of_a_change_of_variables():
    """Log determinant of the Jacobian of all latents by autograd, for two scales, in float64."""
    flow = tiny((1, 4, 4), num_scales=2, mean=0.3, std=0.4).double()
    image, sigma = torch.rand(1, 1, 4, 4, dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    found = []

    def latents(noisy):
        """Standardised latents of both scales, recorded on their way to the Gaussian density."""
        seen = []
        for scale in flow.scales:
            scale.base.log_prob = lambda values, base=scale.base: (
                seen.append((values - base.loc) / base.log_scale.exp()) or type(base).log_prob(base, values)
            )
        found.append(flow.log_prob(noisy, sigma))
        return torch.cat([values.flatten() for values in seen])

    jacobian = torch.autograd.functional.jacobian(latents, image).reshape(16, 16)
    standard = torch.distributions.Normal(0, 1).log_prob(latents(image)).sum()
    torch.testing.assert_close(found[-1][0], standard + jacobian.slogdet().logabsdet)


def test_the_score_is_the_gradient_of_the_log_density():
    """Central differences in float64, for sources with noise levels of their own."""
    flow = tiny().double()
    noisy, sigma = torch.rand(2, 1, 4, 4, dtype=torch.float64), torch.tensor([0.05, 0.8], dtype=torch.float64)
    with torch.inference_mode():  # as in a prediction with Lightning
        found = score(flow, noisy, sigma)
    step = 1e-5 * torch.eye(16, dtype=torch.float64).view(16, 1, 1, 4, 4)
    for pixel in range(16):
        change = flow.log_prob(noisy + step[pixel], sigma) - flow.log_prob(noisy - step[pixel], sigma)
        torch.testing.assert_close(found.flatten(1)[:, pixel], change / 2e-5, rtol=1e-5, atol=1e-5)


def test_a_flow_of_gaussian_sources_learns_their_expectation():
    """The truth is a Wiener filter; the root mean square difference is below 15 % of that of the noisy sources."""
    torch.manual_seed(0)
    covariance = 0.09 * (0.4 * torch.eye(4) + 0.6)
    mean, root = torch.tensor([0.2, 0.5, 0.5, 0.8]), torch.linalg.cholesky(covariance)

    def sources(num):
        return (mean + torch.randn(num, 4) @ root.T).view(-1, 1, 2, 2)

    flow = GlowDenoiser((1, 2, 2), 1, num_steps=3, width=16, mean=0.5, std=0.4, sigma_min=0.2, sigma_max=1.0)
    optimizer = torch.optim.Adam(flow.parameters(), 2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for _ in range(250):
        optimizer.zero_grad()
        flow.loss(sources(256)).backward()
        optimizer.step()
        schedule.step()
    for sigma in (0.2, 0.5, 1.0):
        noisy = sources(2000) + sigma * torch.randn(2000, 1, 2, 2)
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(4))
        truth = (mean + (noisy.flatten(1) - mean) @ gain.T).view_as(noisy)
        found = flow.denoise(noisy, torch.full((2000,), sigma))
        error, before = ((image - truth).square().mean().sqrt().item() for image in (found, noisy))
        assert error < 0.15 * before, (sigma, error, before)


def test_a_flow_is_loaded_as_it_was_saved(tmp_path):
    flow = tiny((3, 8, 4), num_scales=2)
    assert isinstance(flow, Denoiser)
    flow.save_pretrained(tmp_path / "denoiser")
    noisy, sigma = torch.rand(2, 3, 8, 4), torch.tensor([0.1, 0.5])
    loaded = load_denoiser(tmp_path / "denoiser")
    torch.testing.assert_close(loaded.denoise(noisy, sigma), flow.denoise(noisy, sigma), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shape": (1, 6, 8), "num_scales": 2}, r"must be divisible by 4 for num_scales = 2, not \(6, 8\)"),
        ({"shape": (1, 8)}, r"shape must be \(channels, height, width\)"),
        ({"width": 10**9}, "width must be an integer, at least 1, at most 16384"),
        ({"sigma_max": 0.01}, "sigma_max must be a number, above 0.01"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(LassError, match=words):
        GlowDenoiser(**settings)


def test_images_of_another_shape_and_classes_are_refused():
    flow, sigma = tiny(), torch.tensor([0.1])
    with pytest.raises(LassError, match=r"for images of shape \(1, 4, 4\), got \(1, 8, 8\)"):
        flow.denoise(torch.rand(1, 1, 8, 8), sigma)
    with pytest.raises(LassError, match="has no classes: leave out the condition"):
        flow.denoise(torch.rand(1, 1, 4, 4), sigma, torch.tensor([3]))


def test_a_separation_does_not_depend_on_the_batch():
    method = BASIS(tiny(), num_levels=2, steps_per_level=2)
    mixtures = torch.rand(3, 1, 4, 4)
    together = method.separate_batch(mixtures, seed=1, indices=[7, 8, 9]).estimates
    alone = method.separate_batch(mixtures[2:], seed=1, indices=[9]).estimates
    torch.testing.assert_close(together[2:], alone)


def test_a_glow_is_trained_and_basis_evaluated_with_the_configs_of_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_mnist(tmp_path)
    few = ["--data.batch_size=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    few += ["--data.num_validation=10"]
    small = ["num_steps=1", "width=4"]
    options = [f"--model.denoiser.{each}" for each in small] + [
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=1",
    ]
    main(["fit", "-c", str(REPOSITORY / "experiments/mnist/glow.yaml"), *few, *options])
    assert isinstance(load_denoiser("runs/mnist/glow/denoiser"), GlowDenoiser)
    options = ["--data.mixtures=null", "--data.num_mixtures=2", "--model.method.steps_per_level=1"]
    main([*layered(REPOSITORY / "experiments/mnist/methods/basis-glow.yaml"), *few, *options])
    with open("runs/mnist/basis-glow/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(float(row["psnr_db"]) for row in rows)
