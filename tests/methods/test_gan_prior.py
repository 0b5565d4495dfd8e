"""Separation with the prior of a GAN: the descent, the choice of a start, files, refusals."""

from __future__ import annotations

import pytest
import torch

from lass import LassError
from lass.methods import GANPrior, ImageGenerator, SeparationMethod
from lass.methods.gan_prior import descend, generated, mixture_errors
from lass.methods.protocol import groups_of, identity_of
from lass.samplers.generators import MixtureGenerators


def tiny(**settings):
    torch.manual_seed(0)
    return ImageGenerator((1, 8, 8), latent_dim=3, width=4, **settings).eval()


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 0.4]])
def test_the_latents_of_a_linear_generator_are_those_of_a_ridge_regression(weights):
    """The penalised error of a linear generator has one minimum, the solution of the normal equations."""
    torch.manual_seed(0)
    basis, mean, penalty = torch.randn(3, 16), torch.rand(16), 1.0
    mixtures, factors = torch.rand(2, 1, 4, 4), torch.tensor(weights)

    def generator(latents):
        return (latents @ basis + mean).view(-1, 1, 4, 4)

    # min over z of |Σ w (B z + m) - y|² / (16 mean w²) + penalty Σ |z|² / 3
    design = torch.cat([weight * basis for weight in weights]).T / (16 * factors.square().mean()).sqrt()
    target = (mixtures.flatten(1) - factors.sum() * mean).T / (16 * factors.square().mean()).sqrt()
    truth = torch.linalg.solve(design.T @ design + penalty / 3 * torch.eye(6), design.T @ target).T.view(2, 2, 3)
    found = descend(generator, 0.1 * torch.randn(2, 2, 3), mixtures, weights, 500, 0.02, penalty)
    torch.testing.assert_close(found, truth, atol=2e-3, rtol=0)
    remixed = torch.einsum("s,ms...->m...", factors, generated(generator, truth))
    expected = [(x - y).square().mean() / factors.square().mean() for x, y in zip(remixed, mixtures, strict=True)]
    torch.testing.assert_close(mixture_errors(generator, truth, mixtures, weights), torch.stack(expected))


def test_the_start_with_the_smallest_error_is_chosen():
    """Without any step, compared with a loop over the drawn latents of each mixture."""
    generator, mixtures = tiny(), torch.rand(3, 1, 8, 8)
    method = GANPrior(generator, num_restarts=5, restart_steps=0, steps=0)
    with torch.inference_mode():  # as in a prediction with Lightning
        found = method.separate_batch(mixtures, seed=4, indices=[2, 0, 9]).estimates
    drawn = MixtureGenerators(4, [2, 0, 9]).normal(5, 2, 3)
    for mixture, starts, estimates in zip(mixtures, drawn, found, strict=True):
        images = [generator(start).detach() for start in starts]
        errors = [(pair.mean(0) - mixture).square().mean() for pair in images]
        torch.testing.assert_close(estimates, images[min(range(5), key=errors.__getitem__)])


def test_a_mixture_of_generated_images_is_reproduced():
    """Error of the mixture after the descent, in inference mode and independent of the rest of the batch."""
    generator = tiny()
    mixtures = generator(torch.randn(4, 3)).detach().unflatten(0, (2, 2)).mean(1)
    method = GANPrior(generator, num_restarts=3, restart_steps=50, steps=200, learning_rate=0.05, penalty=0.0)
    with torch.inference_mode():
        together = method.separate_batch(mixtures, indices=[0, 1]).estimates
        alone = method.separate_batch(mixtures[1:], indices=[1]).estimates
    assert (together.mean(1) - mixtures).square().mean() < 1e-2 * mixtures.var()
    torch.testing.assert_close(together[1:], alone, atol=1e-3, rtol=1e-3)


def test_a_generator_is_loaded_as_it_was_saved(tmp_path):
    generator, latents = tiny(), torch.randn(2, 3)
    generator.save_pretrained(tmp_path / "generator")
    method = GANPrior(str(tmp_path / "generator"))
    assert isinstance(method, SeparationMethod)
    torch.testing.assert_close(method.generator(latents), generator(latents), rtol=0, atol=0)
    assert identity_of(method) == identity_of(GANPrior(generator))
    assert identity_of(method) != identity_of(GANPrior(generator, steps=7))


def test_sources_of_equal_weight_are_exchangeable():
    assert groups_of(GANPrior(tiny(), 3), None, 2, 3).tolist() == [[0, 0, 0]] * 2
    assert groups_of(GANPrior(tiny(), 3, [0.3, 0.4, 0.3]), None, 1, 3).tolist() == [[0, 1, 0]]


def test_bad_settings_and_images_are_refused(tmp_path):
    for shape in ((1, 8, 10), (8, 8)):
        with pytest.raises(LassError, match=r"must be (divisible by 4|\(channels, height, width\))"):
            ImageGenerator(shape)
    with pytest.raises(LassError, match="learning_rate must be a number, above 0"):
        GANPrior(tiny(), learning_rate=0.0)
    with pytest.raises(LassError, match=r"for images of shape \(1, 8, 8\), got \(1, 4, 4\)"):
        GANPrior(tiny()).separate_batch(torch.rand(1, 1, 4, 4))
    with pytest.raises(LassError, match=r"no generator at .*: make it with `make train-gan DATASET=mnist`"):
        GANPrior(tmp_path / "runs/mnist/gan/generator")
