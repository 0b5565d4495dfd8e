"""Likelihood of sums of powers: against a loop, its fit against planted deviations, its files."""

from __future__ import annotations

import math

import pytest
import torch

from lass import LassError
from lass.artifacts import load_tensors, save_tensors
from lass.likelihood import LogSumLikelihood, LogSumMoments, load_likelihood

GROUPS, SIZE, DIM, FLOOR = 2, 3, 4, 0.1
WEIGHTS = [0.7, 0.3]


def codebook():
    return torch.rand(GROUPS * SIZE, DIM, generator=torch.Generator().manual_seed(0)) * 4 + math.log(FLOOR)


def expected_mean(first, second):
    """Log power of the mixture of two codes, in double precision."""
    powers = [
        weight**2 * (codebook()[z].double().exp() - FLOOR) for weight, z in zip(WEIGHTS, (first, second), strict=True)
    ]
    return (sum(powers) + FLOOR).log()


def planted(num, seed=0):
    """Codes of two sources in one group, and latents of mixtures with a known mean deviation and covariance."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(GROUPS, (num,), generator=generator)
    first, second, mixture = (torch.randint(SIZE, (num,), generator=generator) + SIZE * groups for _ in range(3))
    scale = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])[groups]
    shared = torch.randn(num, 1, generator=generator)
    noise = scale * (0.6 * shared + 0.8 * torch.randn(num, DIM, generator=generator)) + 0.05 * (groups[:, None] + 1)
    means = torch.stack([expected_mean(a, b) for a, b in zip(first, second, strict=True)])
    return mixture, codebook()[torch.stack([first, second], 1)], (means + noise).float()


@pytest.fixture(scope="module")
def moments():
    moments = LogSumMoments(GROUPS * SIZE, DIM, GROUPS, FLOOR, WEIGHTS)
    moments.add(*planted(4000))
    return moments


def test_the_fit_finds_the_planted_deviations(moments):
    likelihood = moments.likelihood(codebook(), ridge=1e-6)
    table = likelihood.state_dict()
    torch.testing.assert_close(table["bias"], torch.tensor([[0.05], [0.1]]).expand(2, DIM), atol=0.03, rtol=0)
    scale = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    covariance = scale[:, :, None] * scale[:, None] * (0.36 + 0.64 * torch.eye(DIM))
    found = torch.linalg.inv(table["whitening"] @ table["whitening"].mT)
    torch.testing.assert_close(found, covariance, atol=0.01, rtol=0.1)  # relative standard errors of 3 %
    torch.testing.assert_close(table["tail"][:, 1], torch.full((2,), float(DIM)), atol=1e-3, rtol=0)


def test_log_likelihoods_are_those_of_a_loop(moments):
    likelihood = moments.likelihood(codebook(), degrees_of_freedom=5.0)
    table = {name: x.double() for name, x in likelihood.state_dict().items()}
    latents = torch.randn(3, DIM, generator=torch.Generator().manual_seed(1))
    mixture_codes = [4, 0, 5]
    for code, latent, pairs in zip(mixture_codes, latents, likelihood.at(mixture_codes, latents), strict=True):
        group = code // SIZE
        assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [
            (a, b) for a in range(group * SIZE, group * SIZE + SIZE) for b in range(group * SIZE, group * SIZE + SIZE)
        ]
        for a, b, value in zip(pairs.first, pairs.second, pairs.log_likelihood, strict=True):
            deviation = latent.double() - expected_mean(a, b) - table["bias"][group]
            q = (deviation @ table["whitening"][group]).square().sum()
            dim = table["tail"][group, 1]
            torch.testing.assert_close(value.double(), -(5 + dim) / 2 * (1 + q / 5).log(), rtol=1e-4, atol=1e-4)
    with pytest.raises(LassError, match=r"needs the mixture's latents"):
        likelihood.at([0])


def test_true_codes_are_more_likely_than_others(moments):
    likelihood = moments.likelihood(codebook())
    mixture, vectors, latents = planted(200, seed=1)
    ranks = []
    for code, pair, latent in zip(mixture.tolist(), vectors, latents, strict=True):
        (pairs,) = likelihood.at([code], latent[None])
        of_pair = [
            (codebook()[z] == vector).all(-1) for z, vector in zip((pairs.first, pairs.second), pair, strict=True)
        ]
        (own,) = pairs.log_likelihood[of_pair[0] & of_pair[1]]
        ranks.append((pairs.log_likelihood > own).sum().item())
    assert sum(ranks) / len(ranks) < 1.5  # 4 for random numbers


def test_parts_are_merged_and_stored(moments, tmp_path):
    one, other = (LogSumMoments(GROUPS * SIZE, DIM, GROUPS, FLOOR, WEIGHTS, codec_fingerprint="f") for _ in range(2))
    batch = planted(40)
    one.add(*(x[:15] for x in batch))
    other.add(*(x[15:] for x in batch))
    one.merge(other)
    one.save(tmp_path / "moments.safetensors")
    loaded = LogSumMoments.load(tmp_path / "moments.safetensors")
    whole = LogSumMoments(GROUPS * SIZE, DIM, GROUPS, FLOOR, WEIGHTS)
    whole.add(*batch)
    for name, sums in whole.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], sums)
    with pytest.raises(LassError, match=r"weights is \[0.7, 0.3\] here and \[0.5, 0.5\] there"):
        one.merge(LogSumMoments(GROUPS * SIZE, DIM, GROUPS, FLOOR, codec_fingerprint="f"))
    likelihood = load_likelihood(tmp_path / "moments.safetensors", codebook=codebook())
    likelihood.save(tmp_path / "likelihood.safetensors")
    again = load_likelihood(tmp_path / "likelihood.safetensors")
    assert isinstance(again, LogSumLikelihood)
    assert (again.codec_fingerprint, again.symmetric) == ("f", False)
    latents = torch.randn(2, DIM, generator=torch.Generator().manual_seed(2))
    for mine, theirs in zip(likelihood.at([0, 3], latents), again.at([0, 3], latents), strict=True):
        torch.testing.assert_close(mine.log_likelihood, theirs.log_likelihood)


@pytest.mark.parametrize(
    "change",
    [
        {"bias": torch.zeros(5, DIM)},  # 6 codes are not 5 groups
        {"tail": torch.zeros(GROUPS, 2)},
        {"weights": torch.tensor([0.5, -0.5])},
        {"codebook": torch.full((GROUPS * SIZE, DIM), torch.nan)},
        {"whitening": torch.zeros(GROUPS, DIM, DIM + 1)},
        {"floor": torch.tensor(0.0)},
        {"extra": torch.zeros(1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_damaged_file_is_refused(moments, tmp_path, change):
    path = tmp_path / "likelihood.safetensors"
    moments.likelihood(codebook()).save(path)
    table, metadata = load_tensors(path, "likelihood")
    facts = {name: metadata[name] for name in ("kind", "num_codes", "codec_fingerprint")}
    save_tensors(path, {**table, **change}, facts)
    with pytest.raises(LassError, match=r"(holds no log-sum likelihood|NaN or infinite numbers)"):
        LogSumLikelihood.load(path)


def test_what_cannot_be_fitted_is_named(moments):
    with pytest.raises(LassError, match=r"Nothing was counted yet"):
        LogSumMoments(GROUPS * SIZE, DIM, GROUPS, FLOOR).likelihood(codebook())
    with pytest.raises(LassError, match=r"Expected a codebook of shape \(6, 4\), got \(6, 3\)"):
        moments.likelihood(codebook()[:, :3])
    with pytest.raises(LassError, match=r"more than 2 GiB: use fewer codes in more groups"):
        LogSumLikelihood(
            2**14,
            {
                "codebook": torch.zeros(2**14, 1),
                "bias": torch.zeros(1, 4),
                "weights": torch.tensor([0.5, 0.5]),
                "floor": torch.tensor(0.1),
            },
        )
