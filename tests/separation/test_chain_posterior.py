"""Chains of counted tables against the enumeration of tiny worlds of three and four sources."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from toy_worlds import random_prior

from lass import LassError, separate_codes
from lass.likelihood import ChainLikelihood, SparseLikelihood, load_likelihood
from lass.samplers import Ancestral, BeamSearch, Greedy, SequentialMonteCarlo, TopK, TopP

K, T = 3, 2


def random_table(generator, zeros):
    """Dense p(mixture | first, second), (K, K, K), and the same as a sparse likelihood."""
    dense = torch.rand(K, K, K, generator=generator) ** 2 + 0.02
    if zeros:
        dense = dense * (torch.rand(K, K, K, generator=generator) > 0.4)
        dense[..., 0] += 0.05
    dense = dense / dense.sum(-1, keepdim=True)
    mixture, first, second = dense.permute(2, 0, 1).nonzero().T
    return dense.double(), SparseLikelihood(K, first, second, mixture, dense[first, second, mixture].log())


class World:
    """Priors and tables, with the posterior of all sequences by explicit sums over the codes of partial mixtures."""

    def __init__(self, num_sources=3, seed=0, zeros=False, likelihood_weight=1.0):
        generator = torch.Generator().manual_seed(seed)
        self.priors = [random_prior(generator, K, zeros) for _ in range(num_sources)]
        tables = [random_table(generator, zeros) for _ in range(num_sources - 1)]
        self.dense, self.likelihood = [dense for dense, _ in tables], ChainLikelihood([sparse for _, sparse in tables])
        self.mixture, self.likelihood_weight = [1, 0], likelihood_weight
        self.tuples = list(itertools.product(range(K), repeat=num_sources))

    def probability(self, codes, mixture):
        """p(mixture code | source codes): the sum over all codes of the partial mixtures."""
        total = 0.0
        for partial in itertools.product(range(K), repeat=len(codes) - 2):
            chain = (codes[0], *partial, mixture)
            factors = zip(self.dense, chain[:-1], codes[1:], chain[1:], strict=True)
            total += math.prod(table[a, b, m].item() for table, a, b, m in factors)
        return total

    def log_step(self, before, position):
        """Log posterior of every tuple at a position."""
        result = []
        for codes in self.tuples:
            likelihood = self.probability(codes, self.mixture[position])
            log_posterior = self.likelihood_weight * math.log(likelihood) if likelihood else -math.inf
            for prior, code, past in zip(self.priors, codes, before or codes, strict=True):
                row = prior.transition[0, past] if before else prior.initial[0]
                log_posterior += math.log(row[code]) if row[code] else -math.inf
            result.append(log_posterior)
        return torch.tensor(result, dtype=torch.float64)

    def log_posterior(self):
        first = self.log_step(None, 0)
        return torch.stack([first[i] + self.log_step(z, 1) for i, z in enumerate(self.tuples)])

    def stepwise(self, keep=None):
        def step(log_weights):
            if keep is not None:
                log_weights = log_weights.masked_fill(log_weights < log_weights.topk(keep).values[-1], -torch.inf)
            return log_weights.softmax(0)

        first = step(self.log_step(None, 0))
        return torch.stack([first[i] * step(self.log_step(z, 1)).nan_to_num() for i, z in enumerate(self.tuples)])

    def separate(self, sampler, num_mixtures=1, **options):
        mixtures = torch.tensor([self.mixture]).expand(num_mixtures, -1)
        options = {"likelihood_weight": self.likelihood_weight, **options}
        return separate_codes(mixtures, self.priors, self.likelihood, sampler, **options)

    def number(self, codes):
        powers = K ** torch.arange(codes.shape[-2] - 1, -1, -1)
        first, second = (codes.movedim(-1, 0) * powers).sum(-1)
        return first * len(self.tuples) + second

    def distribution(self, result):
        total = torch.zeros(len(self.tuples) ** 2, dtype=torch.float64)
        total.index_add_(0, self.number(result.codes).flatten(), result.weights.double().flatten())
        return (total / len(result.codes)).view(len(self.tuples), -1)


def total_variation(first, second):
    return 0.5 * (first - second).abs().sum().item()


@pytest.mark.parametrize("num_sources", [3, 4])
@pytest.mark.parametrize("exponent", [1.0, 0.6])
def test_the_likelihood_is_the_sum_over_partial_mixtures(num_sources, exponent):
    world = World(num_sources, zeros=True)
    found = world.likelihood.log_likelihood(torch.tensor(world.tuples), 1, exponent)
    powered = World(num_sources, zeros=True)
    powered.dense = [table**exponent for table in powered.dense]
    expected = torch.tensor([powered.probability(codes, 1) for codes in world.tuples]).log()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("weight", [1.0, 0.7])
@pytest.mark.parametrize(
    "sampler", [Greedy(), Ancestral(20), TopK(20, k=4), TopP(20), BeamSearch(20), SequentialMonteCarlo(20)], ids=str
)
def test_scores_are_the_log_posterior_of_the_codes(sampler, weight, zeros):
    world = World(zeros=zeros, likelihood_weight=weight)
    result = world.separate(sampler)
    expected = world.log_posterior().flatten()[world.number(result.codes[0])]
    possible = result.scores[0] > -torch.inf
    assert possible.any()
    torch.testing.assert_close(result.scores[0][possible].double(), expected[possible], atol=1e-4, rtol=0)


def test_ancestral_draws_are_exact():
    """8,000 draws of 729 sequences are off by 0.07 on average."""
    world = World(seed=1)
    assert total_variation(world.distribution(world.separate(Ancestral(8000))), world.stepwise()) < 0.09


@pytest.mark.parametrize("sampler", [TopK(8000, k=5), TopP(8000, p=1.0)], ids=str)
def test_truncated_samplers_draw_from_the_best_tuples(sampler):
    world = World(seed=2)
    expected = world.stepwise(sampler.k if isinstance(sampler, TopK) else None)
    assert total_variation(world.distribution(world.separate(sampler)), expected) < 0.09


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.7, 1.0), (1.0, 1.6), (0.7, 0.7)])
def test_the_evidence_is_unbiased(weight, temperature):
    world = World(seed=3, likelihood_weight=weight)
    exact = world.log_posterior().exp().sum()
    sampler = SequentialMonteCarlo(6, temperature=temperature)
    estimates = world.separate(sampler, 200).log_evidence.double().exp()
    error = estimates.std() / 200**0.5
    assert abs(estimates.mean() - exact) < 4 * error
    assert error < 0.06 * exact  # so that the comparison can fail


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_the_distance_to_the_posterior_falls_as_the_root_of_the_number_of_candidates(weight):
    world = World(seed=4, likelihood_weight=weight)
    posterior = world.log_posterior().flatten().softmax(0).view(len(world.tuples), -1)
    distances = []
    for num in (400, 6400):
        runs = [world.distribution(world.separate(SequentialMonteCarlo(num), seed=seed)) for seed in range(4)]
        distances.append(sum(total_variation(run, posterior) for run in runs) / 4)
    assert distances[1] < 0.15
    assert 3 < distances[0] / distances[1] < 5  # √16 = 4


def test_enough_beams_find_the_most_probable_sequences():
    world = World(seed=5)
    expected = world.log_posterior().flatten().sort(descending=True).values[:300]
    torch.testing.assert_close(world.separate(BeamSearch(300)).scores[0].double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampler", [Ancestral(64), SequentialMonteCarlo(64), TopK(64), BeamSearch(64)], ids=str)
def test_memory_and_batch_change_nothing(sampler):
    world = World(seed=6)
    whole = world.separate(sampler, 3, indices=[4, 2, 9], seed=1)
    pieces = world.separate(sampler, 3, indices=[4, 2, 9], seed=1, memory_budget=2**12)
    alone = world.separate(sampler, 1, indices=[2], seed=1)
    assert torch.equal(whole.codes, pieces.codes)
    assert torch.equal(whole.codes[1], alone.codes[0])


def test_files_are_read_back_and_misfits_refused(tmp_path):
    world = World(seed=7)
    world.likelihood.save(tmp_path / "chain.safetensors")
    again = load_likelihood(tmp_path / "chain.safetensors")
    assert isinstance(again, ChainLikelihood)
    assert again.num_sources == 3
    for name, x in world.likelihood.state_dict().items():
        assert torch.equal(again.state_dict()[name], x)
    with pytest.raises(LassError, match="needs one table for each source after the first"):
        ChainLikelihood([])
    with pytest.raises(LassError, match="This ChainLikelihood is for 3 sources"):
        separate_codes(torch.tensor([[0, 1]]), world.priors[:2], world.likelihood, Greedy())


def test_uncounted_codes_of_partial_mixtures_mix_from_themselves():
    """As with two sources: a code m without entries has the pair (m, m)."""
    certain = torch.arange(2)
    table = SparseLikelihood(K, certain, certain, certain, torch.zeros(2))
    world = World(seed=8)
    for sampler in (Greedy(), Ancestral(8), SequentialMonteCarlo(8), TopK(8), BeamSearch(8)):
        found = separate_codes(torch.tensor([[0, 2]]), world.priors, ChainLikelihood([table, table]), sampler)
        assert found.codes[0, 0].tolist() == [[0, 2]] * 3


def test_low_temperatures_do_not_underflow():
    """Entries to the power 100 are below the smallest float."""
    world = World(seed=9)
    exact = world.log_posterior().exp().sum().log().item()
    result = world.separate(SequentialMonteCarlo(64, temperature=0.01), 20)
    assert result.log_evidence.isfinite().all()
    assert result.log_evidence.max().item() < exact + 1


def test_one_table_is_that_of_two_sources():
    world = World(2, seed=10)
    mixtures, options = torch.tensor([[1, 0]]), {"likelihood_weight": 1.0}
    table = world.likelihood.tables[0]
    for sampler in (BeamSearch(20), TopK(20)):
        chain = separate_codes(mixtures, world.priors, world.likelihood, sampler, **options)
        pairs = separate_codes(mixtures, world.priors, table, sampler, **options)
        torch.testing.assert_close(chain.scores, pairs.scores)
