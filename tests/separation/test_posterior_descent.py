"""PosteriorDescent against closed forms for a decoder that is the identity."""

import pytest
import torch

from lass import LassError
from lass.data.mixing import mix
from lass.separation import PosteriorDescent
from lass.separation.posterior_descent import BASE_VARIANCE, share_residual


class Identity:
    """Codec whose latents are the signal; only the decoder is used."""

    num_codes = 1

    def decode_latents(self, latents):
        return latents

    encode = embed = decode = decode_latents


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("weights", [None, [0.5, 0.2, 0.3]])
def test_the_residual_is_shared_as_the_conditional_mean_of_gaussians(weights):
    """The conditional mean of (x₁, x₂, x₃) given Σ w x = y, from the joint covariance matrix, for every pixel."""
    estimates, variances, mixtures = normal(2, 3, 1, 2, 2), normal(2, 3, 1, 2, 2, seed=1).exp(), normal(2, 1, 2, 2)
    shared = share_residual(estimates, variances, mixtures, weights)
    torch.testing.assert_close(mix(shared, weights), mixtures, atol=1e-9, rtol=0)
    row = torch.tensor([weights or [1 / 3] * 3], dtype=torch.float64)
    for m, i, j in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        mean, covariance = estimates[m, :, 0, i, j], (variances[m, :, 0, i, j] + BASE_VARIANCE).diag()
        gain = covariance @ row.T @ torch.linalg.inv(row @ covariance @ row.T)
        expected = mean + gain[:, 0] * (mixtures[m, 0, i, j] - row[0] @ mean)
        torch.testing.assert_close(shared[m, :, 0, i, j], expected, atol=1e-9, rtol=0)  # float64, numbers of order 1


def test_certain_sources_keep_their_estimate():
    shared = share_residual(torch.zeros(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1), torch.ones(1, 1, 1))
    torch.testing.assert_close(shared.flatten(), torch.tensor([0.0, 2.0]), atol=1e-3, rtol=0)


def test_descent_finds_the_maximum_a_posteriori():
    """Two sources of four numbers each: the normal equations of the objective, solved number by number."""
    mean, variances, mixture = normal(1, 2, 4, 1), normal(1, 2, 4, 1, seed=1).exp(), normal(1, 4, 1, seed=2)
    refinement = PosteriorDescent(steps=3000, learning_rate=0.05, halve_every=400, proximal_weight=0.3)
    found = refinement.descend(mean, 0.3 / variances, mixture, Identity())
    for k in range(4):
        precision = 0.3 / variances[0, :, k, 0]
        # d/de of (½ e₁ + ½ e₂ − y)² + Σ precision (e − m)²; both are means over four numbers
        system = torch.full((2, 2), 0.25).double() + precision.diag()
        right = mixture[0, k, 0] / 2 + precision * mean[0, :, k, 0]
        torch.testing.assert_close(found[0, :, k, 0], torch.linalg.solve(system, right), atol=1e-4, rtol=0)


def test_uncertainty_of_signals_is_that_of_the_latents_where_the_decoder_is_the_identity():
    """2,000 probes: the standard error of a variance is 3 %; tolerance 5 standard errors."""
    variances = normal(1, 2, 3, 5).exp()
    _, found = PosteriorDescent(probes=2000)._decode(torch.zeros_like(variances), variances, Identity())
    torch.testing.assert_close(found / variances, torch.ones_like(found), atol=0.16, rtol=0)


def test_mixtures_do_not_influence_each_other():
    latents, variances, mixtures = normal(3, 2, 4, 2, 2), normal(3, 2, 4, 2, 2, seed=1).exp(), normal(3, 4, 2, 2)
    refinement = PosteriorDescent(steps=20)
    together = refinement.refine_posterior(latents, variances, mixtures, Identity())
    alone = refinement.refine_posterior(latents[1:2], variances[1:2], mixtures[1:2], Identity())
    torch.testing.assert_close(together[1:2], alone, atol=1e-6, rtol=0)  # 20 steps of Adam in float64
    torch.testing.assert_close(mix(together), mixtures, atol=1e-9, rtol=0)


@pytest.mark.parametrize("settings", [{"variance_floor": 0.0}, {"probes": 0}, {"steps": -1}], ids=str)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(LassError, match=next(iter(settings))):
        PosteriorDescent(**settings)
