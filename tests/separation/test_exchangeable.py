"""Exchangeable sources (shared prior, symmetric likelihood): beam search keeps one of the two orders."""

from __future__ import annotations

import itertools

import pytest
import torch
from toy_worlds import World, as_sequences, random_world

from lass import SparseCounts, separate_codes
from lass.likelihood import LatentMoments, SparseLikelihood
from lass.samplers import BeamSearch

MIXTURE = [1, 0, 2]


def symmetric_world(seed: int, num_classes: int = 1) -> tuple[World, SparseLikelihood]:
    world = random_world(seed, shared=True, num_classes=num_classes)
    world = World(world.priors, (world.dense + world.dense.transpose(0, 1)) / 2)
    likelihood = world.likelihood
    likelihood.symmetric = True
    return world, likelihood


def search(world, likelihood, num_beams, **options):
    """Return the possible pairs of sequences and their scores."""
    result = separate_codes(torch.tensor([MIXTURE]), world.priors, likelihood, BeamSearch(num_beams), **options)
    beams = zip(map(as_sequences, result.codes[0]), result.scores[0].tolist(), strict=True)
    return {codes: score for codes, score in beams if score > -torch.inf}


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_search_finds_every_separation_once(seed):
    world, likelihood = symmetric_world(seed)
    exact = world.all_posteriors(MIXTURE)
    found = search(world, likelihood, num_beams=729)
    assert len(found) == (729 + 27) / 2  # 27² ordered pairs of sequences, 27 of them with equal sequences
    assert {tuple(sorted(pair)) for pair in found} == {tuple(sorted(pair)) for pair in exact}
    for pair, score in found.items():
        assert score == pytest.approx(exact[pair], abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_narrow_search_matches_a_literal_one_over_unordered_pairs(seed):
    world, likelihood = symmetric_world(seed)
    beams = {((), ()): 0.0}
    for m in MIXTURE:
        longer = {}
        for (z1, z2), score in beams.items():
            for a, b in itertools.product(range(3), repeat=2):
                pair = tuple(sorted([(*z1, a), (*z2, b)]))
                longer[pair] = score + world.log_step((z1, z2), a, b, m, 1.0)
        beams = dict(sorted(longer.items(), key=lambda item: -item[1])[:6])
    found = search(world, likelihood, num_beams=6)
    assert [tuple(sorted(pair)) for pair in found] == list(beams)


@pytest.mark.parametrize(
    "options", [{"conditions": torch.tensor([[0, 1]])}, {"past": torch.tensor([[[0, 1], [0, 2]]])}]
)
def test_sources_that_something_tells_apart_keep_both_orders(options):
    world, likelihood = symmetric_world(0, num_classes=2)
    assert len(search(world, likelihood, num_beams=800, **options)) == 729


def test_a_likelihood_that_is_not_symmetric_keeps_both_orders():
    world, likelihood = symmetric_world(0)
    likelihood.symmetric = False
    assert len(search(world, likelihood, num_beams=800)) == 729


def test_likelihoods_know_whether_they_are_symmetric(tmp_path):
    codes = torch.randint(3, (3, 50), generator=torch.Generator().manual_seed(0))
    for symmetric in (True, False):
        counts, moments = SparseCounts(3, symmetric), LatentMoments(3, 2, symmetric)
        counts.add(*codes)
        moments.add(codes[0], codes[1], torch.randn(50, 2))
        for likelihood in (counts.likelihood(), moments.likelihood(torch.randn(3, 2))):
            likelihood.save(tmp_path / "likelihood.safetensors")
            again = type(likelihood).load(tmp_path / "likelihood.safetensors")
            assert (likelihood.symmetric, again.symmetric) == (symmetric, symmetric)
            assert again.to("cpu").symmetric == symmetric
