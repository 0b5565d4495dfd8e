"""Algorithm 1 computes in float32, independent of the priors' data type, of autocast and of the default data type."""

from __future__ import annotations

import math

import pytest
import torch
from toy_worlds import TablePrior, random_world

from lass import LassError, Separator, read_image, separate_codes
from lass.devices.precision import full_precision
from lass.likelihood import LatentMoments, Pairs
from lass.samplers import Ancestral, BeamSearch, Greedy, SequentialMonteCarlo, TopK, TopP
from lass.separation import NoRefinement

SAMPLERS = [Greedy(), BeamSearch(20), Ancestral(50), TopK(50, 4), TopP(50), SequentialMonteCarlo(50)]
MIXTURE = torch.tensor([[1, 0, 2]])


class Rounded(TablePrior):
    """Prior that returns its log probabilities in another data type."""

    dtype = torch.float64

    def step(self, state, codes):
        return super().step(state, codes).to(self.dtype)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_priors_may_return_any_floating_point_type(sampler, dtype):
    """Scores are float32 and equal the log posterior of the codes, up to the rounding of six log probabilities."""
    world = random_world(3)
    priors = [Rounded(prior.initial, prior.transition) for prior in world.priors]
    for prior in priors:
        prior.dtype = dtype
    result = separate_codes(MIXTURE, priors, world.likelihood, sampler)
    assert {result.scores.dtype, result.weights.dtype} == {torch.float32}
    rounding = 6 * 5 * torch.finfo(dtype).eps + 1e-4  # log probabilities here are above -5
    for codes, score in zip(result.codes[0], result.scores[0].tolist(), strict=True):
        if math.isfinite(score):
            exact = world.log_posterior(tuple(map(tuple, codes.tolist())), MIXTURE[0].tolist())
            assert score == pytest.approx(exact, abs=rounding)


def test_a_prior_that_returns_nan_is_named():
    world = random_world(3)
    broken = TablePrior(world.priors[0].initial * math.nan, world.priors[0].transition)
    with pytest.raises(LassError, match=r"TablePrior.step returned NaN"):
        separate_codes(MIXTURE, [broken, broken], world.likelihood, Greedy())


def latent_world():
    """Return a likelihood of latents, with distances in the hundreds (which bfloat16 rounds by whole nats), and
    latents.
    """
    generator = torch.Generator().manual_seed(0)
    codebook = 20 * torch.randn(3, 8, generator=generator)
    moments = LatentMoments(3, 8)
    first, second = torch.randint(3, (2, 500), generator=generator)
    mean = (codebook[first] + codebook[second]) / 2
    moments.add(first, second, mean + torch.randn(500, 8, generator=generator))
    latents = (codebook[[0, 1, 2]] + codebook[[1, 1, 0]]) / 2
    return moments.likelihood(codebook), latents.T[None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_autocast_does_not_reach_algorithm_1(sampler, dtype):
    """The priors are tables, which autocast does not affect, so the results must be equal."""
    world, (likelihood, latents) = random_world(3), latent_world()
    options = {"mixture_latents": latents, "seed": 1}
    plain = separate_codes(MIXTURE, world.priors, likelihood, sampler, **options)
    with torch.autocast("cpu", dtype):
        rounded = separate_codes(MIXTURE, world.priors, likelihood, sampler, **options)
    assert torch.equal(rounded.codes, plain.codes)
    torch.testing.assert_close(rounded.scores, plain.scores, atol=1e-5, rtol=1e-6)
    if plain.log_evidence is not None:
        torch.testing.assert_close(rounded.log_evidence, plain.log_evidence, atol=1e-5, rtol=1e-6)


def test_the_latent_world_can_tell():
    """Check of the test above: the likelihood computed under autocast is off by more than its tolerance."""
    likelihood, latents = latent_world()
    plain = likelihood.at([0], latents[..., 0])[0].log_likelihood
    with torch.autocast("cpu", torch.bfloat16):
        rounded = likelihood.at([0], latents[..., 0])[0].log_likelihood
    assert (rounded - plain).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_another_default_data_type_does_not_reach_algorithm_1(dtype):
    world = random_world(3)
    torch.set_default_dtype(dtype)
    try:
        result = separate_codes(MIXTURE, world.priors, world.likelihood, SequentialMonteCarlo(20))
        with full_precision("cpu"):
            assert torch.zeros(1).dtype == torch.float32
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.scores.dtype == result.log_evidence.dtype == torch.float32


class Only:
    """Likelihood that allows only one given pair of codes at each position."""

    needs_latents, num_codes = True, 256

    def __init__(self, likelihood, codes):
        self.likelihood, self.pairs = likelihood, iter((codes[0] * 256 + codes[1]).flatten().tolist())

    def at(self, mixture_codes, mixture_latents):
        pair = next(self.pairs)
        (pairs,) = self.likelihood.at(mixture_codes, mixture_latents)
        return [Pairs(*(field[pair : pair + 1] for field in pairs))]  # `at` returns all 256² pairs, sorted


def test_the_score_of_digits_is_the_same_under_autocast(repository):
    """The codes are given, so that rounding cannot change them, and only their scores are compared.

    Only the prior's network computes in bfloat16: each of 98 log probabilities is off by a few hundredths of a nat. A
    rounded likelihood would be off by whole nats.
    """
    separator = Separator.from_pretrained(repository / "pretrained/mnist")
    separator.sampler, separator.refinement = Greedy(), NoRefinement()
    mixture, likelihood = read_image(repository / "docs/mixture.png"), separator.likelihood
    codes = separator.separate(mixture).codes

    def score(dtype, enabled):
        separator.likelihood = Only(likelihood, codes)
        with torch.autocast("cpu", dtype, enabled=enabled):
            result = separator.separate(mixture)
        assert torch.equal(result.codes, codes)
        assert result.estimates.dtype == torch.float32
        return result.scores.item()

    assert score(torch.bfloat16, True) == pytest.approx(score(torch.bfloat16, False), abs=1.0)
