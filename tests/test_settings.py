"""Invalid settings and signals are rejected, in Python and from files."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from toy_worlds import random_world

from lass import LassError, Separator, SparseCounts, separate_codes
from lass.codecs import AudioVQVAE, ImageVQVAE
from lass.codecs import check_range as check_signal
from lass.likelihood import LatentMoments
from lass.metrics import ImageFeatures
from lass.priors import TransformerPrior
from lass.samplers import Greedy
from lass.separation import ClosestToMixture, LatentDescent, NoRefinement, WienerFilter


@pytest.fixture
def parts():
    torch.manual_seed(0)
    codec = ImageVQVAE(image_shape=(1, 8, 8), num_codes=6, width=8, latent_dim=4).eval()
    prior = TransformerPrior(num_codes=6, num_positions=4, dim=8, num_layers=1).eval()
    counts = SparseCounts(6)
    counts.add(*torch.randint(6, (3, 400), generator=torch.Generator().manual_seed(0)))
    return codec, prior, counts.likelihood(), Greedy()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LatentDescent(steps=-1),
        lambda: LatentDescent(learning_rate=0.0),
        lambda: LatentDescent(learning_rate=math.nan),
        lambda: LatentDescent(halve_every=-1),
        lambda: LatentDescent(proximal_weight=-1.0),
        lambda: LatentDescent(proximal_weight=math.inf),
        lambda: ClosestToMixture(batch_size=0),
        lambda: WienerFilter(window=6),
        lambda: WienerFilter(window=0),
        lambda: WienerFilter(exponent=math.nan),
        lambda: SparseCounts(0),
        lambda: SparseCounts(2**21),
        lambda: counted().likelihood(smoothing=math.nan),
        lambda: counted().likelihood(smoothing=-1.0),
        lambda: LatentMoments(3, 2).likelihood(torch.zeros(3, 2), degrees_of_freedom=math.nan),
        lambda: LatentMoments(3, 2).likelihood(torch.zeros(3, 2), ridge=-1.0),
        lambda: TransformerPrior(num_layers=0),
        lambda: TransformerPrior(num_layers=10**9),
        lambda: TransformerPrior(dropout=1.0),
        lambda: TransformerPrior(class_dropout=math.nan),
        lambda: ImageVQVAE(num_codes=0),
        lambda: ImageVQVAE(image_shape=(0, 28, 28)),
        lambda: ImageVQVAE(codebook_decay=1.0),
        lambda: AudioVQVAE(sample_rate=0),
        lambda: AudioVQVAE(num_residual_blocks=40),
        lambda: ImageFeatures(num_features=0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(LassError):
        make()


def counted() -> SparseCounts:
    counts = SparseCounts(3)
    counts.add(*torch.tensor([[0], [1], [2]]))
    return counts


@pytest.mark.parametrize(
    "options",
    [{"memory_budget": 0}, {"memory_budget": -1}, {"likelihood_weight": math.nan}, {"likelihood_weight": -0.5}],
    ids=str,
)
def test_algorithm_and_separator_refuse_the_same_settings(parts, options):
    world = random_world(0)
    (name,) = options
    with pytest.raises(LassError, match=name):
        separate_codes(torch.tensor([[0]]), world.priors, world.likelihood, Greedy(), **options)
    with pytest.raises(LassError, match=name):
        Separator(*parts, **options)


def test_a_separator_refuses_names_that_are_no_names_and_priors_that_are_none(parts):
    codec, _, likelihood, sampler = parts
    for names in (["a/b", "c"], ["", "c"], ["a", "a"], ["a"]):
        with pytest.raises(LassError, match=r"name"):
            Separator(*parts, source_names=names)
    with pytest.raises(LassError, match="got none"):
        Separator(codec, [], likelihood, sampler)


def test_signals_far_outside_the_range_are_refused_and_those_just_outside_give_a_warning(parts):
    separator = Separator(*parts, refinement=NoRefinement())
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(LassError, match=r"values from .* to 25.*, but this codec is for 0 to 1: scale"):
        separator.separate(255 * image)
    with pytest.warns(UserWarning, match=r"values from -0.* to 0.*, but this codec is for 0 to 1\."):
        separator.separate(2 * image - 1)
    audio = AudioVQVAE(sample_rate=8000, num_codes=4, width=8, latent_dim=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        separator.separate(image)
        check_signal(audio, 2 * image - 1)
    with pytest.raises(LassError, match="this codec is for -1 to 1"):
        check_signal(audio, torch.full((1, 1, 9), 20_000.0))


class Diverging(NoRefinement):
    """Refinement that diverges, like a descent with too large steps."""

    def refine(self, latents, mixtures, codec, weights=None):
        return super().refine(latents, mixtures, codec, weights) * math.nan


def test_estimates_that_become_nan_are_not_returned(parts):
    separator = Separator(*parts, refinement=Diverging())
    with pytest.raises(LassError, match="The estimates became NaN or infinite"):
        separator.separate(torch.rand(1, 8, 8))
