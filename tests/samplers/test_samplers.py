"""Samplers against enumerated toy worlds: the contract of all samplers, then properties of each one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter

import pytest
import torch
from toy_worlds import TablePrior, World, as_sequences, counted, random_world

from lass import LassError, SparseCounts, separate_codes
from lass.devices.numerics import widest_float
from lass.samplers import Ancestral, BeamSearch, Greedy, MixtureGenerators, Sampler, SequentialMonteCarlo, TopK, TopP
from lass.samplers.drawing import invert_log_weights
from lass.samplers.sequential_monte_carlo import systematic_resampling
from lass.separation import Candidates, algorithm

ALL = [
    Greedy(),
    Ancestral(40),
    Ancestral(40, temperature=0.5),
    TopK(40, k=2),
    TopK(40, k=100),
    TopP(40, p=0.5),
    TopP(40, p=1.0),
    TopP(40, p=0.7, temperature=2.0),
    BeamSearch(40),
    SequentialMonteCarlo(40),
    SequentialMonteCarlo(40, resample_below=1.0, temperature=0.7),
]
WORLDS = {
    "two priors": {},
    "shared prior": {"shared": True},
    "impossible steps": {"zeros": True},
    "four codes": {"num_codes": 4, "zeros": True},
}
MIXTURE = [1, 0, 2]


def total_variation(observed: Counter, expected: dict) -> float:
    num = sum(observed.values())
    keys = set(observed) | set(expected)
    return 0.5 * sum(abs(observed[key] / num - expected.get(key, 0.0)) for key in keys)


@pytest.fixture(params=[128, 2**12], ids=["as on a CPU", "mixtures share passes, as on a GPU"])
def _sequences_at_once(request, monkeypatch):
    monkeypatch.setitem(algorithm.SEQUENCES_AT_ONCE, "cpu", request.param)


@pytest.mark.usefixtures("_sequences_at_once")
@pytest.mark.parametrize("sampler", ALL, ids=str)
@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("weight", [1.0, 0.5, 3.0])
def test_contract(sampler, kind, weight):
    """Scores are the log posterior of the returned codes, sorted; weights sum to 1; impossible candidates have score
    −inf.
    """
    for seed in range(2):
        world = random_world(seed, **WORLDS[kind])
        result = world.separate([MIXTURE, MIXTURE[::-1]], sampler, likelihood_weight=weight)
        num = sampler.num_candidates
        assert isinstance(sampler, Sampler)
        assert result.codes.shape == (2, num, 2, 3)
        assert result.scores.shape == result.weights.shape == (2, num)
        assert (result.scores.diff(dim=1) <= 0).logical_or(result.scores[:, 1:] == -torch.inf).all()
        torch.testing.assert_close(result.weights.sum(1), torch.ones(2), atol=1e-5, rtol=0)  # 40 float32 terms
        for mixture, codes, scores in zip([MIXTURE, MIXTURE[::-1]], result.codes, result.scores, strict=True):
            for candidate, score in zip(codes, scores.tolist(), strict=True):
                if score > -math.inf:
                    expected = world.log_posterior(as_sequences(candidate), mixture, weight)
                    assert score == pytest.approx(expected, abs=1e-4)
                else:  # impossible, or a beam in excess of the number of sequences
                    assert kind in ("impossible steps", "four codes") or isinstance(sampler, BeamSearch)


@pytest.mark.parametrize("sampler", ALL, ids=str)
@pytest.mark.parametrize("memory_budget", [2**30, 100], ids=["as a product", "through the pairs"])
@pytest.mark.parametrize("shared", [True, False])
def test_all_devices_find_the_same(sampler, memory_budget, shared, device):
    world = random_world(0, num_codes=4, zeros=True, shared=shared)
    if sampler.num_candidates > 1:
        sampler = dataclasses.replace(sampler, num_candidates=16)  # one at a time through the pairs, which is slow
    options = {"memory_budget": memory_budget, "likelihood_weight": 1.5}
    found = world.separate([MIXTURE, [2, 3, 1]], sampler, device, **options)
    expected = world.separate([MIXTURE, [2, 3, 1]], sampler, **options)
    assert_same_draws(found, expected)


def test_single_precision_draws_the_same(monkeypatch):
    """Draws as on devices without float64, with enough codes that one number decides between 16 and then 16 options."""
    world = random_world(2, num_codes=16)
    mixtures = [[3, 14, 1, 5, 9]] * 4
    for sampler in (Ancestral(500), SequentialMonteCarlo(500, resample_below=1.0)):
        double = world.separate(mixtures, sampler)
        with monkeypatch.context() as patch:
            patch.setattr("lass.devices.numerics.WITHOUT_FLOAT64", {"cpu"})
            assert MixtureGenerators(0, [0]).uniform(1).dtype == torch.float32
            single = world.separate(mixtures, sampler)
        assert_same_draws(single, double)


def assert_same_draws(found: Candidates, expected: Candidates) -> None:
    """At least 90 % of the possible candidates agree, with equal scores.

    A uniform number rounded to float32, or a cumulative sum with different rounding, gives another pair if it lies
    within about 10⁻⁶ of the boundary between two pairs. This affects none or very few of the thousands of draws, but
    which ones depends on the device. Scores are float32 sums of about ten terms below 20.
    """
    for found_codes, found_scores, codes, scores in zip(
        found.codes, found.scores, expected.codes, expected.scores, strict=True
    ):
        ours, theirs = (
            [(as_sequences(candidate), score) for candidate, score in zip(*pair, strict=True) if score > -math.inf]
            for pair in ((found_codes, found_scores.tolist()), (codes, scores.tolist()))
        )
        common = Counter(candidate for candidate, _ in ours) & Counter(candidate for candidate, _ in theirs)
        assert common.total() >= 0.9 * max(len(ours), len(theirs))
        score_of = dict(theirs)
        for candidate, score in ours:
            assert score == pytest.approx(score_of.get(candidate, score), abs=1e-4)


@pytest.mark.usefixtures("_sequences_at_once")
@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_result_depends_on_seed_and_index_only(sampler):
    world = random_world(0, zeros=True)
    mixtures = torch.tensor([[1, 0, 2], [2, 2, 0], [0, 1, 1], [1, 0, 2]])
    together = separate_codes(mixtures, world.priors, world.likelihood, sampler, seed=3, indices=[5, 6, 7, 8])
    for row in (3, 0, 2, 1):
        alone = separate_codes(
            mixtures[row : row + 1], world.priors, world.likelihood, sampler, seed=3, indices=[5 + row]
        )
        # Priors of tables do not depend on the batch, so draws are equal; scores are float32 sums.
        assert torch.equal(alone.codes[0], together.codes[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-4, rtol=0)


def test_other_seeds_and_indices_give_other_draws():
    world = random_world(0)
    mixtures = torch.tensor([[1, 0, 2], [1, 0, 2]])
    one = separate_codes(mixtures, world.priors, world.likelihood, Ancestral(50), seed=1)
    other = separate_codes(mixtures, world.priors, world.likelihood, Ancestral(50), seed=2)
    assert not torch.equal(one.codes, other.codes)
    assert not torch.equal(one.codes[0], one.codes[1])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", WORLDS)
def test_wide_beam_search_is_exact(kind, seed, device):
    """With as many beams as sequences, the candidates are all possible sequences, best first."""
    world = random_world(seed, **WORLDS[kind])
    mixture = MIXTURE[: 2 if world.num_codes == 4 else 3]
    exact = world.all_posteriors(mixture)
    num_sequences = world.num_codes ** (2 * len(mixture))
    result = world.separate([mixture], BeamSearch(num_sequences), device)
    possible = result.scores[0].isfinite()
    found = [as_sequences(codes) for codes in result.codes[0][possible]]
    assert sorted(found) == sorted(exact)
    best_first = torch.tensor(sorted(exact.values(), reverse=True))
    torch.testing.assert_close(result.scores[0][possible], best_first, atol=1e-4, rtol=0)


def test_narrow_beam_search_matches_a_literal_one():
    for seed in range(5):
        world = random_world(seed, zeros=True)
        beams = {((), ()): 0.0}
        for m in MIXTURE:
            longer = {
                ((*z1, a), (*z2, b)): score + world.log_step((z1, z2), a, b, m, 1.0)
                for (z1, z2), score in beams.items()
                for a in range(3)
                for b in range(3)
            }
            beams = dict(sorted(longer.items(), key=lambda item: -item[1])[:4])
        result = separate_codes(torch.tensor([MIXTURE]), world.priors, world.likelihood, BeamSearch(4))
        expected = {beam: score for beam, score in beams.items() if score > -math.inf}
        found = [
            as_sequences(codes) for codes, s in zip(result.codes[0], result.scores[0], strict=True) if s > -math.inf
        ]
        assert found == list(expected)


def test_greedy_takes_the_best_pair_of_every_step():
    for seed in range(10):
        world = random_world(seed)
        z1: tuple[int, ...] = ()
        z2: tuple[int, ...] = ()
        for m in MIXTURE:
            pairs = [(a, b) for a in range(3) for b in range(3)]
            a, b = max(pairs, key=lambda pair: world.log_step((z1, z2), *pair, m, 1.0))
            z1, z2 = (*z1, a), (*z2, b)
        result = separate_codes(torch.tensor([MIXTURE]), world.priors, world.likelihood, Greedy())
        assert as_sequences(result.codes[0, 0]) == (z1, z2)


@pytest.mark.parametrize(
    ("sampler", "reference"),
    [
        (Ancestral(40_000), {}),
        (Ancestral(40_000, temperature=0.5), {"temperature": 0.5}),
        (TopK(40_000, k=2), {"keep": 2}),
        (TopK(40_000, k=3, temperature=2.0), {"keep": 3, "temperature": 2.0}),
        (TopK(40_000, k=1), {"keep": 1}),
        (TopP(40_000, p=1.0, temperature=0.7), {"temperature": 0.7}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["two priors", "shared prior"])
def test_draws_follow_the_stepwise_distribution(sampler, reference, kind):
    """40,000 draws over at most 729 outcomes: the expected total variation is below 0.05."""
    world = random_world(7, **WORLDS[kind])
    expected = world.stepwise_distribution(MIXTURE, **reference)
    result = separate_codes(torch.tensor([MIXTURE]), world.priors, world.likelihood, sampler)
    observed = counted(result.codes[0])
    tolerance = 1.5 * sum(math.sqrt(p / (2 * math.pi * 40_000)) for p in expected.values())
    assert total_variation(observed, expected) < tolerance + 1e-6
    assert set(observed) <= set(expected)


def weighted_distance(result: Candidates, expected: dict, mixture: int = 0) -> float:
    """Total variation between weighted candidates and a distribution."""
    observed = Counter()
    for codes, weight in zip(result.codes[mixture], result.weights[mixture].tolist(), strict=True):
        observed[as_sequences(codes)] += weight
    return 0.5 * sum(abs(observed[key] - expected.get(key, 0.0)) for key in set(observed) | set(expected))


def posterior_of(world: World, mixture: list[int], weight: float = 1.0, labels=(0, 0)) -> dict:
    scores = world.all_posteriors(mixture, weight, labels)
    evidence = math.fsum(math.exp(score) for score in scores.values())
    return {pair: math.exp(score) / evidence for pair, score in scores.items()}


def sharpened(table: torch.Tensor, power: float) -> torch.Tensor:
    table = table**power
    return table / table.sum(-1, keepdim=True)


@pytest.mark.parametrize("seed", [5, 6, 9])
@pytest.mark.parametrize(
    "sampler", [SequentialMonteCarlo(1), SequentialMonteCarlo(1, resample_below=1.0, temperature=1.5)], ids=str
)
def test_sequential_monte_carlo_converges_to_the_sequence_posterior(sampler, seed):
    """Total variation decreases like 1/√N; that of ancestral sampling stays at the enumerated bias."""
    world, mixture = random_world(seed, num_codes=2), [1, 0, 1]
    # Z_s then depends strongly on the past, so that normalising every position separately gives a biased distribution.
    priors = [TablePrior(prior.initial, sharpened(prior.transition, 4)) for prior in world.priors]
    world = World(priors, sharpened(world.dense, 6))
    expected = posterior_of(world, mixture)
    stepwise = world.stepwise_distribution(mixture)
    bias = 0.5 * sum(abs(expected.get(key, 0.0) - stepwise.get(key, 0.0)) for key in set(expected) | set(stepwise))
    assert bias > 0.1

    sizes, num_runs = [64, 256, 1024], 24
    distances = []
    for size in sizes:
        result = separate_codes(
            torch.tensor([mixture] * num_runs),
            world.priors,
            world.likelihood,
            dataclasses.replace(sampler, num_candidates=size),
        )
        distances.append(sum(weighted_distance(result, expected, run) for run in range(num_runs)) / num_runs)
    slope = math.log(distances[-1] / distances[0]) / math.log(sizes[-1] / sizes[0])
    assert slope == pytest.approx(-0.5, abs=0.12)
    assert distances[-1] < bias / 3
    ancestral = separate_codes(torch.tensor([mixture]), world.priors, world.likelihood, Ancestral(5000))
    assert weighted_distance(ancestral, expected) == pytest.approx(bias, abs=0.03)


@pytest.mark.parametrize("kind", ["shared prior", "four codes"])
@pytest.mark.parametrize(
    ("sampler", "weight"),
    [
        (SequentialMonteCarlo(6), 1.0),
        (SequentialMonteCarlo(6, resample_below=0.0), 0.5),
        (SequentialMonteCarlo(6, resample_below=1.0, temperature=0.6), 1.0),
    ],
    ids=str,
)
def test_the_evidence_is_estimated_without_bias(kind, sampler, weight):
    """The mean over 250 runs with six candidates each is within four standard errors of the enumerated sum."""
    world = random_world(11, **WORLDS[kind])
    exact = math.fsum(math.exp(score) for score in world.all_posteriors(MIXTURE, weight).values())
    mixtures = torch.tensor([MIXTURE] * 250)
    result = separate_codes(mixtures, world.priors, world.likelihood, sampler, likelihood_weight=weight)
    estimates = result.log_evidence.exp()
    assert abs(estimates.mean().item() - exact) < 4 * estimates.std().item() / math.sqrt(250)
    assert estimates.std().item() < 2 * exact


def test_samplers_without_weights_give_no_evidence():
    world = random_world(0)
    for sampler in (Greedy(), Ancestral(6), BeamSearch(6), TopK(6), TopP(6)):
        assert separate_codes(torch.tensor([MIXTURE]), world.priors, world.likelihood, sampler).log_evidence is None


def test_weights_of_candidates_that_lead_nowhere_are_zero():
    """Codes 0 and 1 explain the first mixture code equally well, but after code 1 the second mixture code is
    impossible.
    """
    prior = TablePrior(torch.tensor([[0.5, 0.5]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    dense = torch.zeros(2, 2, 2)
    dense[0, 0], dense[1, 1] = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    world = World([prior, prior], dense)
    for threshold in (0.0, 0.5, 1.0):
        sampler = SequentialMonteCarlo(200, resample_below=threshold)
        result = separate_codes(torch.tensor([[0, 1], [0, 1]]), world.priors, world.likelihood, sampler)
        assert (result.weights[result.codes[:, :, 0, 1] == 1] == 0).all()
        torch.testing.assert_close(result.weights.sum(1), torch.ones(2), atol=1e-4, rtol=0)  # 200 float32 terms
        # p(z) = 1/4 for the pair (0, 0), then 1; likelihood 1/2 at both positions
        torch.testing.assert_close(result.log_evidence, torch.full((2,), math.log(1 / 16)), atol=0.3, rtol=0)


def test_systematic_resampling_gives_each_its_share(device):
    generator = torch.Generator().manual_seed(0)
    log_weights = torch.randn(500, 7, generator=generator) * 2
    uniforms = torch.rand(500, generator=generator, dtype=torch.float64)
    chosen = systematic_resampling(log_weights.to(device), uniforms.to(widest_float(device)).to(device)).cpu()
    counts = torch.nn.functional.one_hot(chosen, 7).sum(1)
    shares = 7 * log_weights.softmax(1)
    assert (counts >= shares.floor() - 1e-4).all()
    assert (counts <= shares.ceil() + 1e-4).all()
    uniforms = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1]
    chosen = systematic_resampling(log_weights[:1].expand(10_000, -1), uniforms)
    mean = torch.nn.functional.one_hot(chosen, 7).double().mean((0, 1)) * 7
    torch.testing.assert_close(mean, shares[0].double(), atol=1e-3, rtol=0)


def test_the_nucleus_holds_the_probability_asked_for():
    """At one position, the drawn pairs are in the smallest set of most probable pairs that reaches p, at every
    temperature.
    """
    for seed, temperature, p in itertools.product(range(5), (0.5, 1.0, 2.0), (0.05, 0.5, 0.9, 1.0)):
        world = random_world(seed, num_codes=4)
        scores = world.all_posteriors([2])
        ranked = sorted(scores, key=lambda pair: -scores[pair])
        weights = [math.exp(scores[pair] / temperature) for pair in ranked]
        before = [math.fsum(weights[:i]) / math.fsum(weights) for i in range(len(ranked))]
        nucleus = {pair for pair, mass in zip(ranked, before, strict=True) if mass < p - 1e-6}
        sampler = TopP(3000, p=p, temperature=temperature)
        result = separate_codes(torch.tensor([[2]]), world.priors, world.likelihood, sampler)
        drawn = set(counted(result.codes[0]))
        assert drawn <= nucleus
        total = math.fsum(weights[: len(nucleus)])
        likely = {pair for pair, weight in zip(ranked, weights, strict=True) if weight / total > 0.005}
        assert likely & nucleus <= drawn  # missed with probability below 3e-7


def test_a_large_nucleus_is_found_piece_by_piece():
    """The nucleus exceeds the initial search size; of equally probable pairs all are kept."""
    uniform = TablePrior(torch.full((1, 12), 1 / 12), torch.full((1, 12, 12), 1 / 12))
    world = World([uniform] * 2, torch.full((12, 12, 12), 1 / 12))
    world.dense[:6, :, 3] = 2 / 12  # 72 pairs hold two thirds of the probability
    for p, num_kept in {0.5: 72, 0.6: 72, 0.7: 144}.items():
        result = separate_codes(torch.tensor([[3]]), world.priors, world.likelihood, TopP(5000, p=p))
        assert len(counted(result.codes[0])) == num_kept


@pytest.mark.parametrize("sampler", [TopP(8, p=0.8), TopP(8, p=0.99), TopK(8, k=3)], ids=str)
def test_a_diffuse_mixture_does_not_change_a_sharp_one_beside_it(sampler):
    """With ties everywhere: a shared prior and symmetric counts."""
    generator = torch.Generator().manual_seed(0)
    counts = SparseCounts(20)
    counts.add(*torch.randint(20, (2, 5000), generator=generator), torch.ones(5000, dtype=torch.long))
    counts.add(*torch.randint(3, (2, 5000), generator=generator), torch.zeros(5000, dtype=torch.long))
    prior = TablePrior(torch.full((1, 20), 1 / 20), torch.full((1, 20, 20), 1 / 20))
    mixtures = torch.tensor([[0, 0, 0], [1, 1, 1]])
    for seed in range(5):
        together = separate_codes(mixtures, [prior] * 2, counts.likelihood(), sampler, seed=seed)
        alone = separate_codes(mixtures[:1], [prior] * 2, counts.likelihood(), sampler, seed=seed)
        assert torch.equal(together.codes[0], alone.codes[0])


@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_temperature_changes_neither_the_best_pair_nor_the_order_of_beams(temperature):
    world = random_world(1)
    for sampler in (Greedy(), BeamSearch(9)):
        tempered = dataclasses.replace(sampler, temperature=temperature)
        plain, other = (
            separate_codes(torch.tensor([MIXTURE]), world.priors, world.likelihood, s) for s in (sampler, tempered)
        )
        # The scores of the nine best partial sequences differ by more than 10⁻³, so rounding cannot change their order.
        assert torch.equal(plain.codes, other.codes)
        torch.testing.assert_close(plain.scores, other.scores, atol=1e-4, rtol=0)


def test_tempered_draws_are_told_apart():
    """Check of the test above: distributions at other settings differ by more than its tolerance."""
    world = random_world(7)
    plain, cold = world.stepwise_distribution(MIXTURE), world.stepwise_distribution(MIXTURE, temperature=0.5)
    assert 0.5 * sum(abs(plain[key] - cold[key]) for key in plain) > 0.2


def test_top_k_keeps_exactly_k_of_equal_pairs():
    world = World(
        [TablePrior(torch.full((1, 3), 1 / 3), torch.full((1, 3, 3), 1 / 3))] * 2, torch.full((3, 3, 3), 1 / 3)
    )
    result = separate_codes(torch.tensor([[1]]), world.priors, world.likelihood, TopK(1000, k=2))
    assert len({as_sequences(codes) for codes in result.codes[0]}) == 2


def test_inversion_never_takes_what_has_no_probability(device):
    log_weights = torch.tensor([[-torch.inf, 0.0, -torch.inf, -200.0, -torch.inf]], device=device)
    uniforms = torch.cat([torch.rand(10_000), torch.tensor([0.0, 1 - 2**-24])])[None].to(device)
    assert set(invert_log_weights(log_weights, uniforms).flatten().tolist()) <= {1, 3}


def test_generators_are_uniform_and_independent_of_each_other(device):
    numbers = MixtureGenerators(0, range(200), device).uniform(500)
    assert numbers.device.type == device
    numbers = numbers.cpu().double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.005)  # standard error 0.0009
    correlation = torch.corrcoef(numbers)
    assert (correlation - torch.eye(200)).abs().max() < 0.25  # standard error 0.045


def test_numbers_rounded_to_single_precision_stay_below_one(monkeypatch):
    monkeypatch.setattr("lass.devices.numerics.WITHOUT_FLOAT64", {"cpu"})
    monkeypatch.setattr("torch.rand", lambda *args, **kwargs: torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert MixtureGenerators(0, [0]).uniform(2).tolist() == [[0.0, 1 - 2**-24]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ancestral(0), "num_candidates must be an integer, at least 1"),
        (lambda: BeamSearch(-1), "num_candidates must be an integer, at least 1"),
        (lambda: BeamSearch(10**9), "num_candidates must be an integer, .* at most 1048576"),
        (lambda: Ancestral(1, temperature=0.0), "temperature must be a number, above 0, not 0"),
        (lambda: Ancestral(1, temperature=math.nan), "temperature must be a number, above 0, not nan"),
        (lambda: Greedy(temperature=-1.0), "temperature must be a number, above 0"),
        (lambda: TopK(1, k=0), "k of TopK must be an integer, at least 1"),
        (lambda: TopP(1, p=0.0), "p of TopP must be a number, above 0, at most 1"),
        (lambda: TopP(1, p=1.1), "p of TopP must be a number, above 0, at most 1"),
        (lambda: SequentialMonteCarlo(1, resample_below=2.0), "resample_below of .* must be a number, .* at most 1"),
    ],
)
def test_senseless_settings_are_refused(make, message):
    with pytest.raises(LassError, match=message):
        make()
