"""`LatentLikelihood`: moments against a loop, the density against SciPy's, and Algorithm 1 against enumeration."""

from __future__ import annotations

import itertools
import math
from collections import Counter

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
    """Return codes of two sources, latents that depend on them, and the codebook."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(K, (2, 400), generator=generator)
    centres = torch.randn(K, DIM, generator=generator)
    noise = torch.randn(400, DIM, generator=generator) @ torch.tensor([[0.5, 0, 0], [0.2, 0.3, 0], [0, 0.1, 0.2]])
    return first, second, (centres[first] + centres[second]) / 2 + noise, centres


def moments(observations, symmetric=True, chunks=1, device="cpu"):
    made = LatentMoments(K, DIM, symmetric, device)
    for part in zip(*(x.to(device).chunk(chunks) for x in observations[:3]), strict=True):
        other = LatentMoments(K, DIM, symmetric, device)
        other.add(*part)
        made.merge(other)
    return made


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("cells", [True, False])
def test_all_devices_give_the_same_likelihood(observations, symmetric, cells, device, monkeypatch):
    """Sums are float64 on every device (on the CPU if the device has none); values are float32 sums of a few terms."""
    if cells:
        monkeypatch.setattr("lass.likelihood.moments.MAX_PAIRS_AT_ONCE", 1)
        monkeypatch.setattr("lass.likelihood.latents.NEAREST_PAIRS", K)
    made, expected = (moments(observations, symmetric, 3, each) for each in (device, "cpu"))
    for name, sums in expected.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name].cpu(), sums, atol=1e-10, rtol=1e-12)
    codebook, latents = observations[3], torch.randn(6, DIM, generator=torch.Generator().manual_seed(3))
    likelihood = made.likelihood(codebook.to(device)).to(device)
    assert likelihood.device.type == device
    on_cpu = expected.likelihood(codebook).at([0] * 6, latents)
    for found, wanted in zip(likelihood.at([0] * 6, latents.to(device)), on_cpu, strict=True):
        assert found.log_likelihood.device.type == device
        assert torch.equal(found.first.cpu(), wanted.first)
        assert torch.equal(found.second.cpu(), wanted.second)
        torch.testing.assert_close(found.log_likelihood.cpu(), wanted.log_likelihood, atol=1e-4, rtol=0)


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
        assert (pairs.first * K + pairs.second).tolist() == list(range(K * K))  # all pairs, sorted
        truth = [multivariate_t(means[pair], covariance, df=5.0).logpdf(latent.numpy()) for pair in sorted(means)]
        difference = pairs.log_likelihood.double().numpy() - np.array(truth)
        assert np.ptp(difference) < 1e-4  # equal up to a constant


def test_ridge_silences_directions_that_hardly_vary(observations):
    first, second, latents, centres = observations
    flat = latents.clone()
    flat[:, 2] = 1e-4 * flat[:, 2]  # variance 10⁸ times smaller
    codebook = centres.clone()
    codebook[:, 2] *= 1e-4
    likelihood = moments((first, second, flat)).likelihood(codebook, ridge=0.3)
    near, far = (likelihood.at([0], torch.tensor([[0.3, -0.5, x]]))[0].log_likelihood for x in (0.0, 1e-3))
    torch.testing.assert_close(near, far, atol=1e-4, rtol=0)
    assert likelihood.state_dict()["tail"][1] < 2.1  # effective dimension: two of three


def test_values_are_those_of_the_formula_with_the_ridge_that_is_used(observations):
    """Compare shrunken means, covariance with ridge and effective dimension with an explicit computation."""
    first, second, latents, centres = (x.double().numpy() if x.is_floating_point() else x for x in observations)
    likelihood = moments(observations, symmetric=False).likelihood(observations[3])
    means, scatter = {}, np.zeros((DIM, DIM))
    for a, b in itertools.product(range(K), repeat=2):
        found = latents[((first == a) & (second == b)).numpy()]
        means[a, b] = (found.sum(0) + 4 * (centres[a] + centres[b]) / 2) / (len(found) + 4)
        scatter += (found - means[a, b]).T @ (found - means[a, b])
    covariance = scatter / len(latents)
    widened = covariance + np.trace(covariance) / DIM * np.eye(DIM)
    dimension = np.trace(np.linalg.solve(widened, covariance))
    seen = np.array([0.3, -0.5, 1.0])
    pairs = likelihood.at([0], torch.tensor(seen)[None])[0]
    for a, b, value in zip(*(x.tolist() for x in pairs), strict=True):
        distance = (seen - means[a, b]) @ np.linalg.inv(widened) @ (seen - means[a, b])
        assert value == pytest.approx(-(4 + dimension) / 2 * math.log(1 + distance / 4), abs=1e-4)


def test_one_sum_however_it_was_put_together(observations, tmp_path):
    whole, parts = moments(observations), moments(observations, chunks=7)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, atol=1e-10, rtol=1e-12)  # float64, other order
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
    latents = torch.randn(2, DIM, generator=torch.Generator().manual_seed(0))
    for one, other in zip(likelihood.at([0, 0], latents)[0], again.at([0, 0], latents)[0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)  # float32 sums of three terms


@pytest.mark.parametrize("sampler", [BeamSearch(K**4), TopK(3000, k=K * K), Ancestral(3000)])
def test_algorithm_1_with_latents_matches_enumeration(observations, sampler):
    """Two positions with different latents, but equal mixture codes."""
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
    # Draws position by position: compare the frequency of every sequence with its probability.
    steps_1, steps_2 = softmax(steps_1), {past: softmax(steps) for past, steps in steps_2.items()}
    expected = {p + q: steps_1[p] * steps_2[p][q] for p in pairs for q in pairs}
    drawn = Counter((z1[0], z2[0], z1[1], z2[1]) for z1, z2 in map(as_sequences, candidates.codes[0]))
    deviation = sum(abs(drawn[sequence] / 3000 - p) for sequence, p in expected.items()) / 2
    spread = sum(math.sqrt(p * (1 - p) / 3000) for p in expected.values()) / 2
    assert deviation < 1.3 * spread  # expectation 0.8 of this sum, standard deviation below a tenth of it


def softmax(logits):
    top = max(logits.values())
    total = sum(math.exp(value - top) for value in logits.values())
    return {key: math.exp(value - top) / total for key, value in logits.items()}


def test_separator_gives_the_latents_to_the_likelihood(tmp_path):
    torch.manual_seed(0)
    codec = ImageVQVAE((1, 8, 8), num_codes=K, width=8, latent_dim=DIM).eval()
    prior = TransformerPrior(K, 4, dim=8, num_layers=1, num_heads=1).eval()
    made = LatentMoments(K, DIM)
    made.add(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), torch.randn(3, DIM))
    separator = Separator(codec, prior, made.likelihood(codebook_of(codec)), Ancestral(8))
    mixture = torch.rand(1, 8, 8)
    result = separator.separate(mixture)
    latents = codec.encode_latents(mixture[None]).flatten(2)
    by_hand = separate_codes(
        codec.encode(mixture[None]).flatten(1), [prior] * 2, separator.likelihood, Ancestral(8), mixture_latents=latents
    )
    torch.testing.assert_close(result.scores, by_hand.scores[0])
    again = Separator.from_pretrained(separator.save_pretrained(tmp_path)).separate(mixture)
    torch.testing.assert_close(again.estimates, result.estimates)

    class WithoutLatents:
        num_codes, encode = K, codec.encode
        embed, decode, decode_latents = codec.embed, codec.decode, codec.decode_latents

    with pytest.raises(LassError, match="a WithoutLatents, has no encode_latents"):
        Separator(WithoutLatents(), prior, separator.likelihood)


def test_mistakes_are_explained(observations, tmp_path):
    centres = observations[3]
    with pytest.raises(LassError, match="Nothing was counted yet"):
        LatentMoments(K, DIM).likelihood(centres)
    with pytest.raises(LassError, match=r"codebook of shape \(4, 3\), got \(5, 3\)"):
        moments(observations).likelihood(torch.randn(5, DIM))
    for senseless in ({"degrees_of_freedom": 0.0}, {"shrinkage": -1.0}, {"ridge": -2.0}):
        with pytest.raises(LassError, match=f"{next(iter(senseless))} must be a number"):
            moments(observations).likelihood(centres, **senseless)
    for other in (
        LatentMoments(K, DIM, False),
        LatentMoments(K, DIM, codec_fingerprint="b"),
        LatentMoments(K, DIM + 1),
    ):
        with pytest.raises(LassError, match="These moments do not belong together"):
            moments(observations).merge(other)
    with pytest.raises(LassError, match="would take 64 GiB"):
        LatentMoments(2**14, 32)
    with pytest.raises(LassError, match="pass mixture_latents to separate_codes"):
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


def test_with_many_codes_the_nearest_pairs_come_back(monkeypatch):
    """Returned pairs have the log likelihood computed without cells, and include the most likely pairs."""
    generator = torch.Generator().manual_seed(0)
    moments, codebook = LatentMoments(30, 3, symmetric=False), torch.randn(30, 3, generator=generator)
    first, second = torch.randint(30, (2, 20_000), generator=generator)
    noise = 0.2 * torch.randn(20_000, 3, generator=generator)
    moments.add(first, second, (codebook[first] + codebook[second]) / 2 + noise)
    everything = moments.likelihood(codebook)
    monkeypatch.setattr("lass.likelihood.moments.MAX_PAIRS_AT_ONCE", 100)
    monkeypatch.setattr("lass.likelihood.latents.NEAREST_PAIRS", 200)
    nearest = moments.likelihood(codebook)
    latents = torch.randn(50, 3, generator=generator) * 0.7
    shares = []
    for all_pairs, some in zip(everything.at([0] * 50, latents), nearest.at([0] * 50, latents), strict=True):
        pairs = some.first * 30 + some.second
        assert len(pairs) == 200
        assert (pairs.diff() > 0).all()  # sorted and distinct
        torch.testing.assert_close(some.log_likelihood, all_pairs.log_likelihood[pairs], atol=1e-4, rtol=1e-4)
        best = all_pairs.log_likelihood.topk(20).indices
        shares.append(torch.isin(best, pairs).float().mean().item())
    assert sum(shares) / len(shares) > 0.95  # 200 of 900 pairs are returned
