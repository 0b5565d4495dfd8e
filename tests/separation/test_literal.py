"""`separate_codes` against the literal Algorithm 1; sharing of rows, independence of the batch, memory budget."""

from __future__ import annotations

import pytest
import torch
from literal import separate_literally, without_cache
from measuring import LargestTensor, WatchedPrior
from worlds import dense_likelihood, random_likelihood

from lass import separate_codes
from lass.priors import TransformerPrior
from lass.samplers import Ancestral, BeamSearch, MixtureGenerators, SequentialMonteCarlo, TopK, TopP

K, T, N = 12, 7, 64


@pytest.fixture(scope="module")
def priors():
    torch.manual_seed(0)
    made = [TransformerPrior(K, T, dim=16, num_layers=2).eval() for _ in range(2)]
    for prior in made:
        torch.nn.init.normal_(prior.to_logits.weight, std=0.5)
    return made


@pytest.mark.parametrize("memory_budget", [2**30, 10**4], ids=["as a product", "through the pairs"])
@pytest.mark.parametrize("shared", [True, False])
def test_fast_equals_literal(priors, memory_budget, shared):
    """Equal uniform numbers give equal codes with equal scores."""
    chosen = [priors[0], priors[0]] if shared else priors
    likelihood = random_likelihood(K, 0.4)
    mixture_codes = torch.randint(K, (T,), generator=torch.Generator().manual_seed(3))
    generators = MixtureGenerators(seed=5, indices=[2])

    def draw(log_posterior):
        running_sum = log_posterior.double().softmax(-1).cumsum(-1)
        return torch.searchsorted(running_sum, generators.uniform(N).view(-1, 1), right=True)[:, 0]

    slow = [without_cache(prior) for prior in chosen]
    dense = dense_likelihood(likelihood)
    codes, scores = separate_literally(mixture_codes, slow, dense, N, draw, likelihood_weight=1.5)
    result = separate_codes(
        mixture_codes[None],
        chosen,
        likelihood,
        Ancestral(N),
        likelihood_weight=1.5,
        seed=5,
        indices=[2],
        memory_budget=memory_budget,
    )
    mine = sorted(zip(result.codes[0].flatten(1).tolist(), result.scores[0].tolist(), strict=True))
    theirs = sorted(zip(codes.flatten(1).tolist(), scores.tolist(), strict=True))
    assert [pair for pair, _ in mine] == [pair for pair, _ in theirs]
    assert [score for _, score in mine] == pytest.approx([score for _, score in theirs], abs=1e-4)


SAMPLERS = [Ancestral(N), TopK(N, 5), TopP(N), BeamSearch(N), SequentialMonteCarlo(N)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize("shared", [True, False])
def test_candidates_are_the_same_to_the_last_bit_in_any_batch(priors, sampler, shared):
    chosen = [priors[0], priors[0]] if shared else priors
    likelihood = random_likelihood(K, 0.3)
    mixtures = torch.randint(K, (5, T), generator=torch.Generator().manual_seed(4))
    together = separate_codes(mixtures, chosen, likelihood, sampler, seed=1, indices=[7, 3, 9, 4, 0])
    order = [4, 2, 0, 3]
    other = separate_codes(
        mixtures[order], chosen, likelihood, sampler, seed=1, indices=[[7, 3, 9, 4, 0][i] for i in order]
    )
    assert torch.equal(other.codes, together.codes[order])
    assert torch.equal(other.scores, together.scores[order])
    assert torch.equal(other.weights, together.weights[order])


@pytest.mark.parametrize("shared", [True, False])
def test_equal_pasts_are_computed_once(priors, shared):
    """One row per distinct past among the candidates and, for a shared prior, among the sources."""
    watched = [WatchedPrior(prior) for prior in priors]
    chosen = [watched[0], watched[0]] if shared else watched
    likelihood = random_likelihood(K, 0.3)
    mixture = torch.randint(K, (1, T), generator=torch.Generator().manual_seed(5))
    # Ancestral candidates are never replaced, so the final candidates contain all pasts.
    codes = separate_codes(mixture, chosen, likelihood, Ancestral(N)).codes[0]
    expected = 0
    for position in range(T):
        beginnings = [{tuple(row) for row in codes[:, source, :position].tolist()} for source in range(2)]
        expected += len(beginnings[0] | beginnings[1]) if shared else sum(map(len, beginnings))
    assert sum(prior.num_rows for prior in watched) == expected
    assert expected < 2 * N * T


@pytest.mark.parametrize("sampler", [*SAMPLERS, TopP(N, p=1.0), SequentialMonteCarlo(N, temperature=2.0)], ids=str)
def test_the_memory_budget_is_kept_and_changes_nothing(sampler):
    """With many more pairs than candidates and codes, the posterior of all candidates dominates the memory."""
    num_codes = 96
    torch.manual_seed(0)
    prior = TransformerPrior(num_codes, T, dim=16, num_layers=1).eval()
    torch.nn.init.normal_(prior.to_logits.weight, std=0.5)
    likelihood = random_likelihood(num_codes, 0.5)
    mixtures = torch.randint(num_codes, (2, 4), generator=torch.Generator().manual_seed(6))

    def separate(memory_budget):
        watched = WatchedPrior(prior)
        with LargestTensor() as largest:
            watched.untold = largest
            result = separate_codes(mixtures, [watched] * 2, likelihood, sampler, memory_budget=memory_budget)
        return result, largest.bytes

    # 4,608 pairs: the posterior takes 18 KiB for one candidate, 1.1 MiB for all 64
    limited, most = separate(memory_budget=2**18)
    assert most <= 2**18
    unlimited, most = separate(memory_budget=2**30)
    if isinstance(sampler, TopK | TopP | BeamSearch):  # these gather all pairs
        assert most > 2**19
    assert torch.equal(limited.codes, unlimited.codes)
    torch.testing.assert_close(limited.scores, unlimited.scores, atol=1e-4, rtol=0)
