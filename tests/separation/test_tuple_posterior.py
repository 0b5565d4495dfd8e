"""Three and four sources against the enumeration of tiny worlds: likelihood, draws, weights, every sampler."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from toy_worlds import random_prior

from lass import LassError, Separator, separate_codes
from lass.likelihood import AdditiveLikelihood
from lass.samplers import Ancestral, BeamSearch, Greedy, SequentialMonteCarlo, TopK, TopP
from lass.separation import num_sources_probabilities, tuple_posterior
from lass.separation.batched_priors import LogPrior

K, DIM, T = 3, 2, 2
MIXTURE_CODES = torch.zeros(1, T, dtype=torch.long)  # the additive likelihood ignores them


def additive_likelihood(num_codes=K, dim=DIM, seed=0, scale=1.5):
    generator = torch.Generator().manual_seed(seed)
    table = {
        "vectors": scale * torch.randn(num_codes, dim, generator=generator),
        "variances": torch.rand(num_codes, generator=generator),
        "whitening": torch.eye(dim) + 0.3 * torch.rand(dim, dim, generator=generator),
        "tail": torch.tensor([4.0, 1.5, 0.1]),
    }
    return AdditiveLikelihood(num_codes, table)


class World:
    """Priors, an additive likelihood and the latents of a mixture, with all sequences enumerated."""

    def __init__(self, num_sources=3, kind="different", weights=None, seed=0, likelihood_weight=0.8):
        generator = torch.Generator().manual_seed(seed)
        priors = [random_prior(generator, K, zeros=False) for _ in range(num_sources)]
        if kind == "one prior":
            priors = priors[:1] * num_sources
        if kind == "two of one prior":
            priors = [priors[0], priors[1], *[priors[0]] * (num_sources - 2)]
        self.priors, self.weights, self.likelihood_weight = priors, weights, likelihood_weight
        self.likelihood = additive_likelihood(seed=seed)
        self.latents = torch.randn(1, DIM, T, generator=generator)
        self.tuples = torch.tensor(list(itertools.product(range(K), repeat=num_sources)))

    def log_step(self, before, position):
        """Log posterior of every tuple at a position, by the formulas of the docstring, one number at a time."""
        table = {name: x.double() for name, x in self.likelihood.state_dict().items()}
        freedom, dim, noise = table["tail"].tolist()
        weights = self.weights or [1 / len(self.priors)] * len(self.priors)
        whitened = self.latents[0, :, position].double() @ table["whitening"]
        result = []
        for codes in self.tuples.tolist():
            residual = whitened - sum(w * table["vectors"][z] for w, z in zip(weights, codes, strict=True))
            variance = noise + sum(w**2 * table["variances"][z].item() for w, z in zip(weights, codes, strict=True))
            squared = residual.square().sum().item()
            log_likelihood = -(freedom + dim) / 2 * math.log(1 + squared / (freedom * variance))
            log_likelihood -= dim / 2 * math.log(variance)
            log_prior = 0.0
            for prior, code, past in zip(self.priors, codes, before or codes, strict=True):
                row = prior.transition[0, past] if before else prior.initial[0]
                log_prior += math.log(row[code])
            result.append(log_prior + self.likelihood_weight * log_likelihood)
        return torch.tensor(result, dtype=torch.float64)

    def log_posterior(self):
        """Log posterior of every pair of tuples (first position, second position), (K^S, K^S)."""
        first = self.log_step(None, 0)
        return torch.stack([first[i] + self.log_step(z, 1) for i, z in enumerate(self.tuples.tolist())])

    def stepwise(self, temperature=1.0, keep=None):
        """Probabilities of sampling position by position, each step normalised over its `keep` best tuples."""

        def step(log_weights):
            if keep is not None:
                lowest = log_weights.topk(keep).values[-1]
                log_weights = log_weights.masked_fill(log_weights < lowest, -torch.inf)
            return (log_weights / temperature).softmax(0)

        first = step(self.log_step(None, 0))
        return torch.stack([first[i] * step(self.log_step(z, 1)) for i, z in enumerate(self.tuples.tolist())])

    def separate(self, sampler, num_mixtures=1, seed=0):
        return separate_codes(
            MIXTURE_CODES.expand(num_mixtures, -1),
            self.priors,
            self.likelihood,
            sampler,
            likelihood_weight=self.likelihood_weight,
            mixture_latents=self.latents.expand(num_mixtures, -1, -1),
            mixing_weights=self.weights,
            seed=seed,
        )

    def number(self, codes):
        """Position of sequences (..., S, 2) in the enumeration."""
        powers = K ** torch.arange(codes.shape[-2] - 1, -1, -1)
        first, second = (codes.movedim(-1, 0) * powers).sum(-1)
        return first * len(self.tuples) + second

    def distribution(self, result):
        """Weighted distribution of the candidates, averaged over the mixtures."""
        total = torch.zeros(len(self.tuples) ** 2, dtype=torch.float64)
        total.index_add_(0, self.number(result.codes).flatten(), result.weights.double().flatten())
        return (total / len(result.codes)).view(len(self.tuples), -1)


KINDS = ["different", "one prior", "two of one prior"]
WEIGHTS = [None, [0.5, 0.3, 0.2]]


def total_variation(first, second):
    return 0.5 * (first - second).abs().sum().item()


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [Greedy(), Ancestral(20), TopK(20, k=4), TopP(20), BeamSearch(20)], ids=str)
def test_scores_are_the_log_posterior_of_the_codes(sampler, kind, weights):
    world = World(kind=kind, weights=weights)
    result = world.separate(sampler)
    expected = world.log_posterior().flatten()[world.number(result.codes[0])]
    torch.testing.assert_close(result.scores[0].double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_sources", [1, 2, 3, 4])
def test_the_log_likelihood_is_the_formula(num_sources):
    world = World(num_sources, likelihood_weight=1.0)
    log_prior = sum(
        prior.initial[0].double().log()[codes] for prior, codes in zip(world.priors, world.tuples.T, strict=True)
    )
    found = world.likelihood.log_likelihood(world.tuples, world.latents[:, :, 0].expand(len(world.tuples), -1))
    torch.testing.assert_close(log_prior + found, world.log_step(None, 0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "weights"), [(KINDS[0], WEIGHTS[1]), (KINDS[1], None), (KINDS[2], None)])
def test_the_evidence_is_unbiased(kind, weights):
    """With six candidates the estimates scatter widely; their mean is the sum over all sequences within 4 errors."""
    world = World(kind=kind, weights=weights, seed=1)
    exact = world.log_posterior().exp().sum()
    for temperature in (1.0, 1.7):
        estimates = world.separate(SequentialMonteCarlo(6, temperature=temperature), 200).log_evidence.double().exp()
        error = estimates.std() / 200**0.5
        assert abs(estimates.mean() - exact) < 4 * error
        assert error < 0.08 * exact  # so that the comparison can fail


@pytest.mark.parametrize("num_sources", [3, 4])
def test_the_distance_to_the_posterior_falls_as_the_root_of_the_number_of_candidates(num_sources):
    world = World(num_sources, "two of one prior", seed=2)
    posterior = world.log_posterior().flatten().softmax(0).view(len(world.tuples), -1)
    distances = []
    for num_candidates in (800, 12800):
        runs = [world.distribution(world.separate(SequentialMonteCarlo(num_candidates), seed=s)) for s in range(4)]
        distances.append(sum(total_variation(run, posterior) for run in runs) / 4)
    assert distances[1] < 0.25
    assert 3 < distances[0] / distances[1] < 5  # √16 = 4


def test_a_different_target_would_be_noticed():
    """The distance that the test above bounds is far above its bound for the posterior of another likelihood weight."""
    world, other = World(seed=2), World(seed=2, likelihood_weight=0.0)
    posterior = other.log_posterior().flatten().softmax(0).view(len(world.tuples), -1)
    assert total_variation(world.distribution(world.separate(SequentialMonteCarlo(6400))), posterior) > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_enough_beams_find_the_most_probable_sequences(kind):
    """With equal priors only one order of each separation is kept, so every beam is another separation."""
    world = World(kind=kind, seed=3)
    result = world.separate(BeamSearch(200))
    scores = {}
    for number, score in enumerate(world.log_posterior().flatten().tolist()):
        first, second = (world.tuples[i].tolist() for i in divmod(number, len(world.tuples)))
        sequences = list(zip(first, second, strict=True))
        free = [s for s, prior in enumerate(world.priors) if prior is world.priors[0]]
        fixed = [(s, sequence) for s, sequence in enumerate(sequences) if s not in free]
        scores[tuple(sorted(sequences[s] for s in free)), tuple(fixed)] = score
    expected = torch.tensor(sorted(scores.values(), reverse=True)[:200], dtype=torch.float64)
    torch.testing.assert_close(result.scores[0, : len(expected)].double(), expected, atol=1e-4, rtol=0)


def test_greedy_takes_the_most_probable_tuple_of_each_position():
    world = World(seed=4)
    found = world.separate(Greedy()).codes[0, 0]
    first = world.tuples[world.log_step(None, 0).argmax()]
    second = world.tuples[world.log_step(first.tolist(), 1).argmax()]
    assert found.T.tolist() == [first.tolist(), second.tolist()]


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (TopK(8_000, k=5), {"keep": 5}),
        (TopK(8_000, k=5, temperature=2.0), {"keep": 5, "temperature": 2.0}),
        (TopP(8_000, p=1.0), {}),
    ],
    ids=str,
)
def test_truncated_samplers_draw_exactly_where_all_tuples_are_searched(sampler, options):
    """27 tuples are fewer than the 64 that the search keeps. 8,000 draws are off by 0.04 on average."""
    world = World(seed=5)
    assert total_variation(world.distribution(world.separate(sampler)), world.stepwise(**options)) < 0.05


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ancestral_draws_are_near_the_posterior_of_each_position(temperature):
    """The draws are those of the proposal, after two Gibbs sweeps; the exact distribution is reached within 0.08."""
    world = World(seed=5)
    found = world.distribution(world.separate(Ancestral(8_000, temperature=temperature)))
    assert total_variation(found, world.stepwise(temperature)) < 0.08


def test_sweeps_bring_the_draws_nearer_to_the_posterior(monkeypatch):
    """8,000 exact draws are off by 0.065 on average."""
    world, distances = World(seed=6), []
    for sweeps in (0, 2):
        monkeypatch.setattr(tuple_posterior, "SWEEPS", sweeps)
        distances.append(total_variation(world.distribution(world.separate(Ancestral(8_000))), world.stepwise()))
    assert distances[1] < 0.08
    assert distances[0] > 0.12


@pytest.mark.parametrize(
    "sampler", [Ancestral(48), SequentialMonteCarlo(48), TopK(48), TopP(48), BeamSearch(48)], ids=str
)
def test_memory_and_batch_change_nothing(sampler):
    world = World(seed=7)
    options = {"likelihood_weight": 0.8, "mixture_latents": world.latents.expand(3, -1, -1), "seed": 1}
    arguments = (MIXTURE_CODES.expand(3, -1), world.priors, world.likelihood, sampler)
    whole = separate_codes(*arguments, **options, indices=[4, 2, 9])
    pieces = separate_codes(*arguments, **options, indices=[4, 2, 9], memory_budget=2**16)
    assert torch.equal(whole.codes, pieces.codes)
    alone = separate_codes(
        MIXTURE_CODES,
        world.priors,
        world.likelihood,
        sampler,
        **{**options, "mixture_latents": world.latents},
        indices=[2],
    )
    assert torch.equal(whole.codes[1], alone.codes[0])


def test_two_sources_are_drawn_exactly_and_as_tuples_alike(monkeypatch):
    """With two sources all pairs are enumerated; the posterior of tuples converges to the same one."""
    world = World(2, seed=8)
    exact = world.separate(SequentialMonteCarlo(8_000))
    monkeypatch.setattr("lass.separation.algorithm.MAX_PAIRS", 0)
    as_tuples = world.separate(SequentialMonteCarlo(8_000))
    posterior = world.log_posterior().flatten().softmax(0).view(9, 9)
    assert total_variation(world.distribution(exact), posterior) < 0.03
    assert total_variation(world.distribution(as_tuples), posterior) < 0.03
    assert exact.log_evidence.item() == pytest.approx(as_tuples.log_evidence.item(), abs=0.05)


def test_parts_for_another_number_of_sources_are_refused():
    world = World()
    with pytest.raises(LassError, match="mixing_weights must have one number above 0 for each of 3 sources"):
        separate_codes(
            MIXTURE_CODES,
            world.priors,
            world.likelihood,
            Greedy(),
            mixture_latents=world.latents,
            mixing_weights=[0.5, 0.5],
        )
    with pytest.raises(LassError, match="needs the mixture's latents"):
        separate_codes(MIXTURE_CODES, world.priors, world.likelihood, Greedy())


@pytest.mark.parametrize("scale", [1.5, 3.0])
def test_the_normaliser_is_right_with_more_codes_than_are_refined(scale):
    """100 codes, of which the look-ahead refines 32; the sum over all 10⁶ tuples is exact."""
    num_codes, dim, num = 100, 16, 4000
    generator = torch.Generator().manual_seed(0)
    likelihood = additive_likelihood(num_codes, dim, scale=scale)
    rows = (2 * torch.randn(1, num_codes, generator=generator)).log_softmax(1)
    truth = torch.multinomial(rows[0].exp(), 3, generator=generator)
    latents = likelihood.vectors[truth].mean(0) + 0.5 * torch.randn(dim, generator=generator)
    latents = latents @ torch.linalg.inv(likelihood.state_dict()["whitening"])
    log_priors = [LogPrior(rows, torch.zeros(1, 1, dtype=torch.long))] * 3
    posterior = tuple_posterior.TuplePosterior(log_priors, likelihood, latents[None], [1 / 3] * 3, 1.0)
    uniforms = torch.rand(1, num, posterior.num_uniforms, dtype=torch.float64, generator=generator)
    drawn = posterior.draw(torch.zeros(1, num, dtype=torch.long), uniforms)
    tuples = torch.cartesian_prod(*[torch.arange(num_codes)] * 3)
    log_posterior = rows[0][tuples].sum(1) + likelihood.log_likelihood(tuples, latents.expand(len(tuples), -1))
    estimate = drawn.log_weights[0].double().logsumexp(0) - math.log(num)
    assert estimate.item() == pytest.approx(log_posterior.double().logsumexp(0).item(), abs=0.3)
    expected = (log_posterior.double().softmax(0) * log_posterior).sum()
    assert drawn.log_posterior.mean().item() == pytest.approx(expected.item(), abs=0.3)


def test_noise_far_below_the_codes_variances_stays_finite():
    likelihood = additive_likelihood()
    table = {
        **likelihood.state_dict(),
        "variances": torch.tensor([0.0, 1e3, 1e-9]),
        "tail": torch.tensor([4.0, 1.5, 1e-6]),
    }
    world = World(seed=9)
    world.likelihood = AdditiveLikelihood(K, table)
    result = world.separate(SequentialMonteCarlo(64))
    assert result.scores.isfinite().all()
    assert result.log_evidence.isfinite().all()


class OneMixtureCodec(torch.nn.Module):
    """Codec whose every signal has the given latents, (1, DIM, T)."""

    num_codes, dim = K, DIM

    def __init__(self, latents):
        super().__init__()
        self.latents = latents

    def encode(self, signal):
        return MIXTURE_CODES.expand(len(signal), -1)

    def encode_latents(self, signal):
        return self.latents.expand(len(signal), -1, -1)

    def embed(self, codes):
        raise NotImplementedError  # not needed for counting sources

    decode_latents = decode = embed


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_of_the_number_of_sources_are_those_of_the_summed_posteriors(seed):
    worlds = [World(num_sources, "one prior", seed=seed) for num_sources in (1, 2, 3)]
    for world in worlds:  # one mixture of one world, with priors of the same numbers
        world.latents, world.priors = worlds[0].latents, worlds[0].priors[:1] * len(world.priors)
    separator = Separator(
        OneMixtureCodec(worlds[0].latents),
        worlds[0].priors[0],
        worlds[0].likelihood,
        likelihood_weight=worlds[0].likelihood_weight,
    )
    mixtures = torch.zeros(2, 1, T)
    found = num_sources_probabilities(separator, mixtures, at_most=3, num_candidates=20_000)
    expected = torch.stack([world.log_posterior().logsumexp((0, 1)) for world in worlds]).softmax(0)
    torch.testing.assert_close(found, expected.float().expand(2, -1), atol=0.02, rtol=0)
    assert found.min() > 0.02  # no number is certain, so that the comparison says something
    assert torch.equal(
        num_sources_probabilities(separator, mixtures[:1], at_most=3, num_candidates=20_000, indices=[1]), found[1:]
    )


def test_counting_sources_refuses_what_it_cannot_compare():
    world = World(2, "different")
    different = Separator(OneMixtureCodec(world.latents), world.priors, world.likelihood)
    with pytest.raises(LassError, match="is for 2 different sources"):
        num_sources_probabilities(different, torch.zeros(1, 1, T))
    alike = Separator(OneMixtureCodec(world.latents), world.priors[0], world.likelihood)
    with pytest.raises(LassError, match="at_most must be an integer, at least 1, at most 64, not 0"):
        num_sources_probabilities(alike, torch.zeros(1, 1, T), at_most=0)
