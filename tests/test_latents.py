"""The likelihood of latents: moments against a loop, the density against SciPy's, Algorithm 1 on top of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t
from toy_worlds import as_sequences, random_world

from lass import LassError, Separator, separate_codes
from lass.codecs import ImageVQVAE, codebook_of
from lass.likelihood import LatentLikelihood, LatentMoments, Likelihood, load_likelihood
from lass.priors import TransformerPrior
from lass.samplers import Ancestral, BeamSearch, TopK

K, DIM = 4, 3


@pytest.fixture
def observations():
    """Codes of two sources, and latents that follow them."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(K, (2, 400), generator=generator)
    centres = torch.randn(K, DIM, generator=generator)
    noise = torch.randn(400, DIM, generator=generator) @ torch.tensor([[0.5, 0, 0], [0.2, 0.3, 0], [0, 0.1, 0.2]])
    return first, second, (centres[first] + centres[second]) / 2 + noise, centres


def moments(observations, symmetric=True, chunks=1):
    made = LatentMoments(K, DIM, symmetric)
    for part in zip(*(x.chunk(chunks) for x in observations[:3]), strict=True):
        other = LatentMoments(K, DIM, symmetric)
        other.add(*part)
        made.merge(other)
    return made


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shrinkage", [0.0, 4.0])
def test_density_is_students_t(observations, symmetric, shrinkage):
    first, second, latents, centres = observations
    likelihood = moments(observations, symmetric, chunks=3).likelihood(centres, 5.0, shrinkage, ridge=0.0)

    by_pair = {pair: [] for pair in itertools.product(range(K), repeat=2)}
    for a, b, latent in zip(first.tolist(), second.tolist(), latents.double().numpy(), strict=True):
        for pair in {(a, b), (b, a)} if symmetric else {(a, b)}:
            by_pair[pair].append(latent)
    means = {}
    for (a, b), found in by_pair.items():
        start = (centres[a] + centres[b]).double().numpy() / 2
        means[a, b] = (sum(found) + shrinkage * start) / (len(found) + shrinkage)
    deviations = np.array([x - means[a, b] for a, b, x in zip(*map(np.asarray, (first, second, latents)), strict=True)])
    covariance = deviations.T @ deviations / len(deviations)

    seen = torch.tensor([[0.3, -0.5, 1.0], [0.0, 0.2, -0.1]])
    for latent, pairs in zip(seen, likelihood.at([0, 0], seen), strict=True):
        assert (pairs.first * K + pairs.second).tolist() == list(range(K * K))  # all pairs, in order
        truth = [multivariate_t(means[pair], covariance, df=5.0).logpdf(latent.numpy()) for pair in sorted(means)]
        difference = pairs.log_likelihood.double().numpy() - np.array(truth)
        assert np.ptp(difference) < 1e-4  # the same up to a constant


def test_ridge_silences_directions_that_hardly_vary(observations):
    first, second, latents, centres = observations
    flat = latents.clone()
    flat[:, 2] = 1e-4 * flat[:, 2]  # almost no information, and what there is may be noise
    codebook = centres.clone()
    codebook[:, 2] *= 1e-4
    likelihood = moments((first, second, flat)).likelihood(codebook, ridge=0.3)
    near, far = (likelihood.at([0], torch.tensor([[0.3, -0.5, x]]))[0].log_likelihood for x in (0.0, 1e-3))
    torch.testing.assert_close(near, far, atol=1e-4, rtol=0)
    assert likelihood.state_dict()["tail"][1] < 2.1  # two of three dimensions count


def test_one_sum_however_it_was_put_together(observations, tmp_path):
    whole, parts = moments(observations), moments(observations, chunks=7)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor)
    whole.save(tmp_path / "latents.safetensors")
    codebook = observations[3]
    torch.testing.assert_close(
        load_likelihood(tmp_path / "latents.safetensors", codebook=codebook).state_dict(),
        whole.likelihood(codebook).state_dict(),
    )


def test_saved_likelihood_is_the_same(observations, tmp_path):
    likelihood = moments(observations).likelihood(observations[3])
    assert isinstance(likelihood, Likelihood)
    likelihood.save(tmp_path / "likelihood.safetensors")
    again = load_likelihood(tmp_path / "likelihood.safetensors")
    assert isinstance(again, LatentLikelihood)
    latents = torch.randn(2, DIM)
    for one, other in zip(likelihood.at([0, 0], latents), again.at([0, 0], latents), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("sampler", [BeamSearch(K**4), TopK(3000, k=K * K), Ancestral(3000)])
def test_algorithm_1_with_latents_matches_enumeration(observations, sampler):
    """Two positions, whose latents differ though the mixture's code is the same."""
    world = random_world(3, num_codes=K)
    likelihood = moments(observations).likelihood(observations[3])
    latents = torch.tensor([[[0.3, -1.0], [-0.5, 0.4], [1.0, 0.0]]])  # (1 mixture, DIM, 2 positions)
    codes = torch.zeros(1, 2, dtype=torch.long)
    candidates = separate_codes(codes, world.priors, likelihood, sampler, mixture_latents=latents)

    def log_step(position, a, b, past):
        total = likelihood.at([0], latents[..., position])[0].log_likelihood[a * K + b].item()
        for prior, code, before in zip(world.priors, (a, b), past or (None, None), strict=True):
            row = prior.initial[0] if before is None else prior.transition[0, before]
            total += math.log(row[code].item())
        return total

    pairs = list(itertools.product(range(K), repeat=2))
    steps_1 = {pair: log_step(0, *pair, None) for pair in pairs}
    steps_2 = {past: {pair: log_step(1, *pair, past) for pair in pairs} for past in pairs}
    if isinstance(sampler, BeamSearch):
        best = max(steps_1[p] + steps_2[p][q] for p in pairs for q in pairs)
        assert candidates.scores[0, 0].item() == pytest.approx(best, abs=1e-4)
        return
    # Drawn position by position: the share of each first pair, and the mean score, against their expectation.
    weights = np.exp(np.array(list(steps_1.values())))
    weights /= weights.sum()
    drawn = [as_sequences(sequence) for sequence in candidates.codes[0]]
    shares = np.array([sum((z1[0], z2[0]) == pair for z1, z2 in drawn) for pair in pairs]) / len(drawn)
    assert np.abs(shares - weights).max() < 4 * 0.5 / math.sqrt(len(drawn))


def test_separator_gives_the_latents_to_the_likelihood(tmp_path):
    torch.manual_seed(0)
    codec = ImageVQVAE((1, 8, 8), num_codes=K, width=8, latent_dim=DIM).eval()
    prior = TransformerPrior(K, 4, dim=8, num_layers=1, num_heads=1).eval()
    made = LatentMoments(K, DIM)
    made.add(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), torch.randn(3, DIM))
    separator = Separator(codec, prior, made.likelihood(codebook_of(codec)), Ancestral(8))
    mixture = torch.rand(1, 8, 8)
    result = separator.separate(mixture)
    again = Separator.from_pretrained(separator.save_pretrained(tmp_path)).separate(mixture)
    torch.testing.assert_close(again.estimates, result.estimates)


def test_mistakes_are_explained(observations, tmp_path):
    centres = observations[3]
    with pytest.raises(LassError, match="Nothing was counted yet"):
        LatentMoments(K, DIM).likelihood(centres)
    with pytest.raises(LassError, match=r"codebook of shape \(4, 3\), got \(5, 3\)"):
        moments(observations).likelihood(torch.randn(5, DIM))
    with pytest.raises(LassError, match="would take 64 GiB"):
        LatentMoments(2**14, 32)
    with pytest.raises(LassError, match="give separate_codes mixture_latents"):
        moments(observations).likelihood(centres).at([0])
    moments(observations).save(tmp_path / "latents.safetensors")
    with pytest.raises(LassError, match="need the codec's codebook"):
        load_likelihood(tmp_path / "latents.safetensors")
    with pytest.raises(LassError, match="Smoothing needs counts"):
        load_likelihood(tmp_path / "latents.safetensors", smoothing=1.0, codebook=centres)
    for kind in (LatentMoments, LatentLikelihood):
        (tmp_path / "nothing.safetensors").write_bytes(b"nothing")
        with pytest.raises(LassError, match="damaged or no safetensors"):
            kind.load(tmp_path / "nothing.safetensors")
