"""Additive likelihood: its statistics against loops, its fit against a world with known noise, its files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lass import LassError
from lass.likelihood import AdditiveLikelihood, AdditiveMoments, load_likelihood

K, DIM = 6, 3


def codebook():
    return torch.randn(K, DIM, generator=torch.Generator().manual_seed(0))


def mixtures(num, num_sources, seed, spread=None, weights=None, nonlinearity=0.05):
    """Random codes, latents of sources that scatter around their vectors, and latents of their mixtures."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(K, (num, num_sources), generator=generator)
    spread = torch.full((K,), 0.3) if spread is None else spread
    errors = spread[codes][..., None] * torch.randn(num, num_sources, DIM, generator=generator)
    latents = codebook()[codes] + errors
    factors = torch.tensor(weights or [1 / num_sources] * num_sources)
    noise = nonlinearity * torch.randn(num, DIM, generator=generator)
    return codes, errors, latents, (factors[:, None] * latents).sum(1) + noise


def test_the_statistics_are_those_of_a_loop():
    weights = [0.5, 0.3, 0.2]
    moments = AdditiveMoments(K, DIM)
    for seed in range(2):
        moments.add(*mixtures(40, 3, seed, weights=weights), weights)
    expected = {name: torch.zeros_like(x) for name, x in moments.state_dict().items()}
    for seed in range(2):
        for codes, errors, latents, mixture in zip(*mixtures(40, 3, seed, weights=weights), strict=True):
            wrong = mixture.double() - sum(w * x.double() for w, x in zip(weights, latents, strict=True))
            expected["mixture_products"] += wrong[:, None] * wrong
            expected["num_mixtures"] += 1
            for code, error in zip(codes.tolist(), errors.double(), strict=True):
                expected["counts"][code] += 1
                expected["errors"][code] += error
                expected["squares"][code] += error @ error
                expected["error_products"] += error[:, None] * error
    for name, sums in moments.state_dict().items():
        torch.testing.assert_close(sums, expected[name], msg=name)


def test_merged_parts_are_the_whole():
    whole, one, other = (AdditiveMoments(K, DIM) for _ in range(3))
    for part, num_sources in ((one, 2), (other, 4)):
        part.add(*mixtures(30, num_sources, num_sources))
        whole.add(*mixtures(30, num_sources, num_sources))
    one.merge(other)
    for name, sums in whole.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], sums)
    with pytest.raises(LassError, match=r"num_codes is 6 here and 7 there"):
        one.merge(AdditiveMoments(7, DIM))


def test_the_fit_finds_means_and_noise_of_the_codes():
    """Latents of code k have mean codebook[k] + 0.2 and variance 0.01 · 4^(k/2)."""
    spread = 0.1 * 2.0 ** (torch.arange(K) / 2)
    moments = AdditiveMoments(K, DIM)
    for num_sources in (2, 3, 4):
        codes, errors, latents, mixture = mixtures(20_000, num_sources, num_sources, spread)
        moments.add(codes, errors + 0.2, latents + 0.2, mixture + 0.2)
    likelihood = moments.likelihood(codebook(), ridge=0.0)
    whitening = likelihood.state_dict()["whitening"]
    found = likelihood.vectors @ torch.linalg.inv(whitening)
    torch.testing.assert_close(found, codebook() + 0.2, atol=0.02, rtol=0)
    # The squares are around the codebook vectors, so they contain the shift.
    squares = spread.square() * DIM + 0.04 * DIM
    torch.testing.assert_close(
        likelihood.variances / likelihood.variances[0], squares / squares[0], atol=0.2, rtol=0.05
    )


@pytest.mark.parametrize("num_sources", [2, 3, 5])
def test_the_fitted_noise_is_that_of_mixtures_of_any_number_of_sources(num_sources):
    """Fitted on pairs; whitened residuals of other mixtures have the variance that the likelihood gives them."""
    moments = AdditiveMoments(K, DIM)
    moments.add(*mixtures(50_000, 2, 0))
    likelihood = moments.likelihood(codebook(), ridge=0.0)
    codes, _, _, mixture = mixtures(50_000, num_sources, 1)
    residual = likelihood.whiten(mixture) - likelihood.vectors[codes].mean(1)
    variance = likelihood.noise + likelihood.variances[codes].sum(1) / num_sources**2
    ratio = (residual.square().sum(1) / variance).mean() / likelihood.effective_dim
    assert ratio.item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("weights", [None, [0.7, 0.3]])
def test_the_table_of_pairs_is_the_log_likelihood_of_every_pair(weights):
    moments = AdditiveMoments(K, DIM)
    moments.add(*mixtures(500, 2, 0))
    likelihood = moments.likelihood(codebook())
    latents = mixtures(4, 2, 1)[3]
    for pairs, own in zip(likelihood.at([0] * 4, latents, weights), latents, strict=True):
        assert (pairs.first * K + pairs.second).tolist() == list(range(K * K))
        codes = torch.stack([pairs.first, pairs.second], 1)
        expected = likelihood.log_likelihood(codes, own.expand(K * K, -1), weights)
        torch.testing.assert_close(pairs.log_likelihood, expected, atol=1e-4, rtol=1e-4)


def test_files_are_read_back_and_others_refused(tmp_path):
    moments = AdditiveMoments(K, DIM, codec_fingerprint="abc")
    with pytest.raises(LassError, match="Nothing was counted yet"):
        moments.likelihood(codebook())
    moments.add(*mixtures(500, 3, 0))
    moments.save(tmp_path / "additive.safetensors")
    likelihood = load_likelihood(tmp_path / "additive.safetensors", codebook=codebook(), keep=True)
    assert isinstance(likelihood, AdditiveLikelihood)
    assert likelihood.codec_fingerprint == "abc"
    likelihood.save(tmp_path / "likelihood.safetensors")
    again = load_likelihood(tmp_path / "likelihood.safetensors")
    for name, x in likelihood.state_dict().items():
        assert torch.equal(again.state_dict()[name], x)
    with pytest.raises(LassError, match=r"needs? the codec's codebook"):
        load_likelihood(tmp_path / "additive.safetensors")
    with pytest.raises(LassError, match=r"Expected a codebook of shape \(6, 3\), got \(5, 3\)"):
        moments.likelihood(torch.zeros(5, 3))
    for kind, path in ((AdditiveMoments, "likelihood.safetensors"), (AdditiveLikelihood, "additive.safetensors")):
        with pytest.raises(LassError, match="holds no additive"):
            kind.load(tmp_path / path)
    assert load_file(tmp_path / "likelihood.safetensors")["vectors"].shape == (K, DIM)
