"""BASIS and ISDM on sources with known posteriors, and against the code of ISDM's authors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from gaussian_mixtures import GaussianMixture, posterior
from safetensors.torch import load_file

from lass import LassError
from lass.denoisers import UNetDenoiser
from lass.methods import BASIS, ISDM
from lass.methods.protocol import groups_of, identity_of

TWO_MODES = GaussianMixture((0.3, 0.7), (-0.5, 0.6), (0.2, 0.3))
ONE_MODE = GaussianMixture((1.0,), (0.2,), (0.4,))
SIDE = 50  # pixels of a side; every pixel is an independent world
GOLDEN = Path(__file__).parents[1] / "golden/msdm.safetensors"


def separated(method, value, seed=0):
    """Samples of the values of all sources given a mixture of one value, (sources, samples)."""
    return method.separate_batch(torch.full((1, 1, SIDE, SIDE), value), seed=seed).estimates[0].flatten(1).double()


def assert_moments(samples, mean, covariance, bias=0.02):
    """The moments of the samples are those of the posterior, up to 4 standard errors and the bias of the steps."""
    error = (covariance.diagonal() / samples.shape[1]).sqrt()
    assert ((samples.mean(1) - mean).abs() < 4 * error + bias).all()
    scale = covariance.diagonal().max()
    assert ((torch.cov(samples) - covariance).abs() < 4 * (2 / samples.shape[1]) ** 0.5 * scale + bias).all()


@pytest.mark.parametrize("weights", [None, (0.7, 0.2)])
def test_langevin_dynamics_sample_the_posterior_at_a_level(weights):
    """At one level, the samples follow the product of the noisy densities and the likelihood."""
    sources, scales = (TWO_MODES, ONE_MODE), weights or (0.5, 0.5)
    method = BASIS(
        sources, 2, weights, sigma_max=0.3, sigma_min=0.3, num_levels=1, steps_per_level=600, step_size=0.03, gamma=1.5
    )
    noise = 1.5 * 0.3 * (sum(scale**2 for scale in scales) / 2) ** 0.5
    exact = posterior(sources, scales, 0.1, 0.3, noise)
    assert_moments(separated(method, 0.1), exact.mean, exact.covariance)


def test_annealed_langevin_dynamics_sample_the_posterior_of_three_sources():
    """At the last of five levels, whose posterior differs from that of the first by more than the tolerance."""
    sources = (ONE_MODE, TWO_MODES, TWO_MODES)
    method = BASIS(sources, sigma_max=1.0, sigma_min=0.15, num_levels=5, steps_per_level=300, step_size=0.03)
    exact = posterior(sources, [1 / 3] * 3, 0.25, 0.15, 0.15 / 3)
    first = posterior(sources, [1 / 3] * 3, 0.25, 1.0, 1 / 3)
    assert (first.covariance - exact.covariance).abs().max() > 0.5
    samples = separated(method, 0.25)
    assert_moments(samples, exact.mean, exact.covariance)
    right = (samples[1] > 0.05).double().mean()  # of the values of the second source, which has two modes
    within = torch.distributions.Normal(exact.means[:, 1], exact.covariances[:, 1, 1].sqrt())
    expected = 1 - exact.probabilities @ within.cdf(torch.tensor(0.05).double())
    assert abs(right - expected) < 0.03


@pytest.mark.parametrize("likelihood", ["dirac", "gaussian"])
def test_reverse_diffusion_finds_the_mean_of_a_gaussian_posterior(likelihood):
    """For sources of equal variance; the posterior of another mixture has another mean."""
    sources = (GaussianMixture((1.0,), (-0.3,), (0.4,)), GaussianMixture((1.0,), (0.5,), (0.4,)))
    method = ISDM(sources, likelihood=likelihood, num_steps=40, sigma_max=3.0, churn=10.0)
    exact = posterior(sources, (0.5, 0.5), 0.4, 0.0, 1e-6)
    samples = separated(method, 0.4)
    assert (samples.mean(1) - exact.mean).abs().max() < 0.03
    assert (exact.mean - torch.tensor([-0.3, 0.5])).abs().min() > 0.2
    mixed = samples.mean(0)
    assert (mixed - 0.4).abs().max() < (1e-5 if likelihood == "dirac" else 0.05)


@pytest.mark.parametrize("num_sources", [2, 3])
@pytest.mark.parametrize("likelihood", ["dirac", "gaussian"])
def test_isdm_equals_its_authors_code(likelihood, num_sources):
    """With the same random numbers, up to rounding."""
    golden = load_file(GOLDEN)
    sources = [GaussianMixture((1.0,), (m,), (s,)) for m, s in ((0.1, 0.2), (-0.2, 0.4), (0.3, 0.1))][:num_sources]
    method = ISDM(
        sources,
        likelihood=likelihood,
        reference=1,
        gamma=0.75 * 2**0.5,
        num_steps=12,
        churn=4.0,
        mixing_weights=[1 / num_sources] * num_sources,
    )
    mixture = golden[f"mixture.{num_sources}"][None, :, None] / num_sources  # theirs is a sum
    estimates = method.separate_batch(mixture, seed=7, indices=[3]).estimates[0, :, 0, 0]
    torch.testing.assert_close(estimates, golden[f"{likelihood}.{num_sources}"], atol=5e-6, rtol=2e-5)


@pytest.mark.parametrize("method", [BASIS(ONE_MODE, steps_per_level=3), ISDM(ONE_MODE, num_steps=5)])
def test_estimates_depend_on_seed_and_index_and_not_on_the_batch(method):
    mixtures = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = method.separate_batch(mixtures, seed=1, indices=[4, 5, 6]).estimates
    alone = method.separate_batch(mixtures[1:2], seed=1, indices=[5]).estimates
    torch.testing.assert_close(whole[1:2], alone)
    assert not torch.allclose(method.separate_batch(mixtures[1:2], seed=2, indices=[5]).estimates, alone)


@pytest.mark.parametrize("weights", [None, (0.7, 0.2)])
def test_sources_start_as_equal_parts_of_the_mixture_with_noise(weights):
    """One step of negligible size moves only the noise; without `start`, the noise is all."""
    tiny = {"sigma_max": 0.5, "sigma_min": 0.5, "num_levels": 1, "steps_per_level": 1, "step_size": 1e-12}
    first, alone = (separated(BASIS(ONE_MODE, 2, weights, start=start, **tiny), 0.6) for start in ("mixture", "noise"))
    torch.testing.assert_close(first - alone, torch.full_like(first, 0.6 / sum(weights or (1.0,))), atol=1e-4, rtol=0)
    assert alone.std() == pytest.approx(0.5, abs=4 * 0.5 / (2 * alone.numel()) ** 0.5)


def denoiser(**options):
    torch.manual_seed(0)
    return UNetDenoiser((1, 8, 8), widths=(8, 8), num_blocks=(1, 1), **options).eval()


def test_a_saved_denoiser_is_used_for_all_sources(tmp_path):
    """Estimates, identity and groups are those of the denoiser itself."""
    own = denoiser(num_classes=3, class_dropout=0.5)
    folder = own.save_pretrained(tmp_path / "denoiser")
    mixtures, classes = torch.rand(2, 1, 8, 8), torch.tensor([[0, 2], [1, 1]])
    methods = [ISDM(own, num_steps=3), ISDM(str(folder), num_steps=3), ISDM([folder, folder], num_steps=3)]
    estimates = [method.separate_batch(mixtures, classes).estimates for method in methods]
    for other in estimates[1:]:
        torch.testing.assert_close(other, estimates[0])
    assert not torch.allclose(methods[0].separate_batch(mixtures).estimates, estimates[0])
    assert identity_of(methods[0]) == identity_of(methods[1])
    assert identity_of(methods[0]) != identity_of(ISDM(own, num_steps=4))
    for method in methods:
        assert groups_of(method, classes, 2, 2).tolist() == [[0, 1], [0, 0]]
    assert groups_of(ISDM([own, denoiser()]), None, 1, 2).tolist() == [[0, 1]]
    assert groups_of(ISDM(own, mixing_weights=[0.3, 0.6]), None, 1, 2).tolist() == [[0, 1]]


def audio():
    torch.manual_seed(0)
    return UNetDenoiser((1, 64), 100, widths=(8, 8), num_blocks=(1, 1), mean=0.0)


def test_long_audio_is_separated_in_chunks_of_the_denoisers_shape():
    method, lengths = ISDM([audio(), audio()], num_steps=2), []
    for each in method.denoisers:
        each.network.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[-1]))
    assert method.separate_batch(torch.randn(1, 1, 150)).estimates.shape == (1, 2, 1, 150)
    assert set(lengths) == {64}
    assert len(lengths) == 4 * 2 * 2 * 2  # chunks, steps, resamples, sources


@dataclass
class Shrink:
    """Denoiser that is not hashable."""

    factor: float

    def denoise(self, noisy, sigma, condition=None):
        return self.factor * noisy


def test_equal_denoisers_are_two():
    """Each is used, for its own source; so they are not exchangeable, and their settings are part of the identity."""
    method = ISDM([Shrink(0.5), Shrink(0.5)], num_steps=2)
    noisy = torch.rand(1, 2, 1, 3, 3)
    torch.testing.assert_close(method.denoise(noisy, 0.1, None), 0.5 * noisy)
    assert groups_of(method, None, 1, 2).tolist() == [[0, 1]]
    swapped = [ISDM([Shrink(a), Shrink(1 - a)], num_steps=2) for a in (0.3, 0.7)]
    assert identity_of(swapped[0]) != identity_of(swapped[1])


def test_denoisers_are_used_in_evaluation_mode():
    method = ISDM(denoiser(dropout=0.5).train(), num_steps=2)
    mixtures = torch.rand(1, 1, 8, 8)
    estimates = [method.separate_batch(mixtures).estimates for _ in range(2)]
    torch.testing.assert_close(*estimates)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BASIS([ONE_MODE, ONE_MODE], 3), "one denoiser for all 3 sources, or one for each, got 2"),
        (lambda: BASIS(ONE_MODE, sigma_min=2.0), "sigma_max must be"),
        (lambda: ISDM(ONE_MODE, reference=2), "reference must be"),
        (lambda: BASIS(ONE_MODE, 10), "steps diverge: step_size must be below 0.182"),
        (lambda: BASIS(ONE_MODE, gamma=0.3), "steps diverge"),
        (lambda: ISDM(ONE_MODE).separate_batch(torch.rand(2, 1, 2, 2), indices=[1]), "one index for each of 2"),
        (lambda: ISDM(ONE_MODE).separate_batch(torch.rand(1, 1, 2, 2), seed=-1), "seed must be"),
        (lambda: ISDM(ONE_MODE).separate_batch(torch.rand(1, 1, 2, 2), torch.zeros(1, 3).long()), "one class"),
        (lambda: ISDM(ONE_MODE).separate_batch(torch.rand(1, 1, 2, 2), torch.zeros(1, 2)), "whole number"),
        (lambda: ISDM(ONE_MODE).separate_batch(torch.rand(1, 1, 9)), "channels, height, width"),
        (lambda: ISDM(audio()).separate_batch(torch.rand(1, 1, 65)), "chunk of at most 64"),
        (lambda: ISDM("nowhere"), "There is no denoiser at nowhere"),
        (lambda: ISDM(ONE_MODE).separate_batch(torch.full((1, 1, 2, 2), torch.nan)), "NaN or infinite"),
        (lambda: ISDM(denoiser()).separate_batch(torch.rand(1, 1, 9, 8)), r"shape \(1, 8, 8\), got \(1, 9, 8\)"),
        (lambda: ISDM(denoiser(num_classes=2)).separate_batch(torch.rand(1, 1, 8, 8)), "needs the class"),
    ],
)
def test_bad_input_gives_one_sentence(make, words):
    with pytest.raises(LassError, match=words):
        make()
