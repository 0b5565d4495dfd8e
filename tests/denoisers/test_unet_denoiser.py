"""The U-Net denoiser: limits of the noise level, shapes, classes, files, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_mixtures import GaussianMixture

from lass import LassError
from lass.artifacts import fingerprint
from lass.denoisers import UNetDenoiser, load_denoiser, score
from lass.denoisers.sampling import karras_levels, sample_sources

SOURCE = GaussianMixture((0.4, 0.6), (-0.5, 0.8), (0.1, 0.3))


def tiny(**options):
    torch.manual_seed(0)
    return UNetDenoiser(**{"shape": (1, 8, 8), "widths": (8, 16), "num_blocks": (1, 1), **options})


def test_at_low_noise_the_source_remains_and_at_high_noise_its_mean():
    """Whatever the network: its output is scaled by σ at low levels, and by the std of the sources at high ones."""
    model, sources = tiny(mean=0.3, std=0.2), torch.rand(5, 1, 8, 8)
    low = model.denoise(sources, torch.full((5,), 1e-6))
    torch.testing.assert_close(low, sources, atol=1e-4, rtol=0)
    network = model.network
    network.unet.ascent[-1][-1].weight.data.zero_()
    network.unet.ascent[-1][-1].bias.data.zero_()
    high = model.denoise(sources, torch.full((5,), 1e4))
    torch.testing.assert_close(high, torch.full_like(high, 0.3), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 1, 8, 8)),
        ({"shape": (3, 9, 7)}, (2, 3, 9, 7)),
        ({"shape": (1, 64), "sample_rate": 100, "patch": 4}, (2, 1, 64)),
        ({"shape": (1, 64), "sample_rate": 100, "patch": 4, "stride": 4}, (2, 1, 37)),
    ],
)
def test_any_size_keeps_its_shape(options, shape):
    model = tiny(**options)
    assert model.denoise(torch.randn(shape), torch.tensor([0.1, 0.5])).shape == shape


def test_sources_of_a_batch_are_independent():
    model, sources, sigma = tiny(num_classes=3, class_dropout=0.1).eval(), torch.rand(4, 1, 8, 8), torch.rand(4) + 0.1
    classes = torch.tensor([0, 1, 2, -1])
    whole = model.denoise(sources, sigma, classes)
    for i in range(4):
        alone = model.denoise(sources[i : i + 1], sigma[i : i + 1], classes[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.denoise(sources[3:], sigma[3:]), whole[3:], atol=1e-5, rtol=1e-4)
    other = model.denoise(sources, sigma, torch.tensor([1, 1, 2, -1]))
    assert not torch.allclose(other[0], whole[0], atol=1e-6)


def test_a_saved_denoiser_is_loaded_with_its_settings(tmp_path):
    model = tiny(mean=0.1, sigma_max=3.0, num_classes=2, class_dropout=0.5).eval()
    loaded = load_denoiser(model.save_pretrained(tmp_path / "denoiser"))
    assert fingerprint(loaded) == fingerprint(model)
    noisy, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 1.0])
    torch.testing.assert_close(loaded.denoise(noisy, sigma), model.denoise(noisy, sigma))


def loss_of(model, sources, classes=None):
    torch.manual_seed(1)
    with torch.no_grad():
        return float(model.loss(sources, classes))


def test_the_loss_is_that_of_the_formula():
    """Karras et al., Eq. 8, for the levels and the noise of the seed: (σ⁻² + std⁻²) · squared error."""
    model, sources = tiny(std=0.4, sigma_min=0.02, sigma_max=2.0), torch.rand(6, 1, 8, 8)
    torch.manual_seed(1)
    sigma = 0.02 * 100 ** torch.rand(6)
    noisy = sources + sigma[:, None, None, None] * torch.randn_like(sources)
    errors = (model.denoise(noisy, sigma) - sources).square().mean((1, 2, 3))
    expected = ((1 / sigma**2 + 1 / 0.4**2) * errors).mean()
    assert loss_of(model, sources) == pytest.approx(expected.item(), rel=1e-5)


def test_it_learns_the_expected_sources():
    """Pixels of two modes: the loss of the trained network is within 5 % of that of the exact expectation.

    The best linear denoiser has a loss of 1, as has an untrained network that gives zeros.
    """

    def draw(number):
        modes = (torch.rand(number, 1, 4, 4) < 0.6).long()
        means, stds = torch.tensor(SOURCE.means)[modes], torch.tensor(SOURCE.stds)[modes]
        return means + stds * torch.randn(number, 1, 4, 4)

    options = {"shape": (1, 4, 4), "patch": 1, "widths": (32,), "num_blocks": (1,), "kernel_size": 1}
    options |= {"mean": 0.28, "std": 0.68, "sigma_min": 0.05, "sigma_max": 2.0}
    model = tiny(**options)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(draw(64)).backward()
        optimizer.step()
        schedule.step()

    class Exact(UNetDenoiser):
        denoise = staticmethod(SOURCE.denoise)

    held_out, exact = draw(4000), Exact(**options)
    assert loss_of(model, held_out) < 1.05 * loss_of(exact, held_out)
    assert loss_of(exact, held_out) < 0.9


def test_the_score_is_the_gradient_of_the_log_density():
    noisy = torch.linspace(-1, 1, 9, dtype=torch.float64)[None].requires_grad_()
    density = sum(
        probability * torch.distributions.Normal(mean, math.hypot(std, 0.3)).log_prob(noisy).exp()
        for probability, mean, std in zip(SOURCE.probabilities, SOURCE.means, SOURCE.stds, strict=True)
    )
    (expected,) = torch.autograd.grad(density.log().sum(), noisy)
    found = score(SOURCE, noisy.detach(), torch.tensor([0.3], dtype=torch.float64))
    torch.testing.assert_close(found, expected)


def test_samples_have_the_density_of_the_sources():
    """Fractions of the two modes and moments, within 4 standard errors and the error of the steps."""
    generator = torch.Generator().manual_seed(0)
    samples = sample_sources(SOURCE, torch.randn(1, 20000, generator=generator), karras_levels(40, 0.005, 20.0))
    assert float((samples > 0.1).double().mean()) == pytest.approx(0.6, abs=0.02)
    upper = samples[samples > 0.1]
    assert float(upper.mean()) == pytest.approx(0.8, abs=0.02)
    assert float(upper.std()) == pytest.approx(0.3, abs=0.02)


def test_the_noise_levels_follow_the_formula():
    levels = karras_levels(5, 0.01, 2.0, 3.0)
    assert levels[0] == 2.0
    assert levels[-2] == pytest.approx(0.01)
    assert levels[-1] == 0.0
    assert levels[2] == pytest.approx(((2.0 ** (1 / 3) + 0.01 ** (1 / 3)) / 2) ** 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (1, 8)}, "with sample_rate = None"),
        ({"shape": (1, 8, 8), "sample_rate": 100}, "with sample_rate = 100"),
        ({"shape": (1, 8, 0)}, "each size of shape must be"),
        ({"widths": (8, 8, 8)}, "two lists of equal length"),
        ({"shape": ()}, "shape must be"),
        ({"shape": (2, 64), "sample_rate": 100}, "for audio, not"),
        ({"stride": 17}, "stride must be"),
        ({"num_blocks": (1, 300)}, "each of num_blocks must be"),
        ({"widths": (8, 0)}, "each of widths must be"),
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"std": 0.0}, "std must be"),
        ({"sigma_min": 2.0}, "sigma_max must be"),
        ({"num_classes": -1}, "num_classes must be"),
    ],
)
def test_a_bad_setting_is_named(options, words):
    with pytest.raises(LassError, match=words):
        tiny(**options)


@pytest.mark.parametrize("classes", [torch.tensor([3]), torch.tensor([-2]), torch.tensor([-1])])
def test_unknown_classes_are_refused(classes):
    with pytest.raises(LassError, match=r"must be 0…2, but there are (3…3|-2…-2|-1…-1): give these"):
        tiny(num_classes=3).denoise(torch.rand(1, 1, 8, 8), torch.ones(1), classes)
    with pytest.raises(LassError, match="has no classes"):
        tiny().denoise(torch.rand(1, 1, 8, 8), torch.ones(1), classes)
