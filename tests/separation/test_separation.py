"""Algorithm 1, the posterior of one position, selection, refinement, and the `Separator`."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from simulated_device import SIMULATED
from toy_worlds import TablePrior, as_sequences, fitted_additive, random_world

from lass import LassError, Separator, SparseCounts, separate_codes
from lass.artifacts import fingerprint
from lass.codecs import ImageVQVAE
from lass.data.mixing import mix
from lass.devices.numerics import widest_float
from lass.likelihood import Pairs
from lass.priors import TransformerPrior
from lass.samplers import Ancestral, BeamSearch, Greedy, SequentialMonteCarlo, TopK
from lass.separation import (
    Candidates,
    ClosestToMixture,
    HighestScore,
    LatentDescent,
    NoRefinement,
    PosteriorDescent,
    algorithm,
)
from lass.separation.batched_priors import BatchedPriors, LogPrior
from lass.separation.entropy import entropy_by_position
from lass.separation.posterior import StepPosterior
from lass.separation.posterior_mean import latent_moments
from lass.separation.refinement import nearest_consistent

# ---- the posterior of one position


NUM_CODES = 6


def make_step(shift: float = 0.0, device: str = "cpu"):
    """Return log priors of 2 mixtures × 3 candidates, pairs of different number, and the dense log posterior (on the
    CPU).

    `shift` is added to the log prior of the codes 2…4, to which the pairs of the first mixture are restricted.
    """
    generator = torch.Generator().manual_seed(0)
    row_of = torch.tensor([[0, 1, 0], [2, 3, 4]]), torch.tensor([[3, 3, 3], [0, 0, 1]])  # candidates share rows
    logits = [torch.randn(5, NUM_CODES, generator=generator) for _ in range(2)]
    for rows in logits:
        rows[:, 2:5] += shift
    log_priors = [LogPrior(rows.log_softmax(-1), of) for rows, of in zip(logits, row_of, strict=True)]
    pairs, dense = [], torch.full((2, 3, NUM_CODES, NUM_CODES), -torch.inf)
    for mixture, (num_pairs, side) in enumerate([(7, 3), (17, NUM_CODES)]):
        lowest = 2 if side == 3 else 0
        chosen = torch.randperm(side * side, generator=generator)[:num_pairs].sort().values
        first, second = lowest + chosen // side, lowest + chosen % side
        log_likelihood = torch.rand(num_pairs, generator=generator).log()
        pairs.append(Pairs(first, second, log_likelihood))
        for candidate, (a, b, value) in itertools.product(range(3), zip(first, second, log_likelihood, strict=True)):
            log_prior = sum(prior[of[mixture, candidate], z] for (prior, of), z in zip(log_priors, (a, b), strict=True))
            dense[mixture, candidate, a, b] = log_prior + 2.0 * value
    log_priors = [LogPrior(*(x.to(device) for x in log_prior)) for log_prior in log_priors]
    return log_priors, [Pairs(*(x.to(device) for x in each)) for each in pairs], dense.flatten(2)


#: Tolerance of log posteriors: float32 sums of three terms up to 1000, divided by a temperature of at least 0.3.
ROUNDING = {"rtol": 1e-5, "atol": 1e-4}
BUDGETS = pytest.mark.parametrize("memory_budget", [1, 500, 2**28], ids=["pair by pair", "in groups", "by a product"])


@BUDGETS
@pytest.mark.parametrize("shift", [0.0, -100.0, -1000.0], ids="log prior {}".format)
def test_posterior_matches_the_dense_one_however_it_is_computed(shift, memory_budget, device):
    """Includes pairs of such low probability that products of probabilities underflow."""
    log_priors, pairs, dense = make_step(shift, device)
    posterior = StepPosterior(log_priors, pairs, likelihood_weight=2.0, memory_budget=memory_budget)
    for temperature in (1.0, 0.3, 4.0):
        log_normalizer = posterior.log_normalizer(temperature).cpu()
        torch.testing.assert_close(log_normalizer, (dense / temperature).logsumexp(-1), **ROUNDING)
    probabilities = dense.softmax(-1)
    for p in (0.3, 0.9):
        lowest = posterior.nucleus(p).cpu()
        ranked = probabilities.sort(-1, descending=True).values
        before = torch.nn.functional.pad(ranked.cumsum(-1)[..., :-1], (1, 0))
        num_kept = (before < p).sum(-1)
        # The next log posterior differs from the lowest by more than five times this tolerance.
        assert torch.equal((dense >= lowest[..., None] * (1 + 1e-7) - 1e-5).sum(-1), num_kept)
    for k in (1, 3, 20):
        codes, log_posterior, _ = posterior.best(k)
        codes, log_posterior = codes.cpu(), log_posterior.cpu()
        expected = dense.topk(k, -1).values
        torch.testing.assert_close(log_posterior, expected, **ROUNDING)
        real = expected.isfinite()
        found = codes[..., 0] * NUM_CODES + codes[..., 1]  # any order among equal log posteriors
        torch.testing.assert_close(dense.gather(-1, found)[real], expected[real], **ROUNDING)
        assert all(
            len(row[is_real].unique()) == is_real.sum()
            for row, is_real in zip(found.flatten(0, 1), real.flatten(0, 1), strict=True)
        )


def parents_of(num: int) -> torch.Tensor:
    """Return candidates 0, 1, 2 of both mixtures, `num` times each."""
    return torch.arange(3).repeat_interleave(num).expand(2, -1)


@pytest.mark.parametrize("shift", [0.0, -100.0], ids="log prior {}".format)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_uniform_number_means_the_same_pair_however_it_is_drawn(shift, temperature, device):
    log_priors, pairs, dense = make_step(shift, device)
    num = 3 * (200 if device != SIMULATED else 10)  # the simulated device is slow
    uniforms = torch.rand(2, num, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    running_sum = (dense.double() / temperature).softmax(-1).cumsum(-1)
    expected = torch.searchsorted(running_sum, uniforms.view(2, 3, -1), right=True).view(2, num)
    # Cumulative sums in float32, of exponentials of log posteriors around -200, have an error of about 2e-5.
    to_border = (running_sum[:, :, None] - uniforms.view(2, 3, -1, 1)).abs().amin(-1).view(2, num)
    clear = to_border > 1e-4
    assert clear.float().mean() > 0.99
    for budget in (1, 700, 2**28):
        posterior = StepPosterior(log_priors, pairs, likelihood_weight=2.0, memory_budget=budget)
        given = uniforms[..., None].to(widest_float(device)).to(device)
        codes, log_posterior, log_weights = posterior.draw(parents_of(num // 3).to(device), given, temperature)
        codes, log_posterior = codes.cpu(), log_posterior.cpu()
        assert log_weights is None  # exact draws
        assert torch.equal((codes[..., 0] * NUM_CODES + codes[..., 1])[clear], expected[clear])
        exact = dense.gather(2, expected.view(2, 3, -1)).view(2, num)
        torch.testing.assert_close(log_posterior[clear], exact[clear], **ROUNDING)


def test_drawn_pairs_have_the_frequencies_of_the_posterior():
    log_priors, pairs, dense = make_step()
    uniforms = torch.rand(2, 150_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn = StepPosterior(log_priors, pairs, likelihood_weight=2.0).draw(parents_of(50_000), uniforms)
    keys = (drawn.codes[..., 0] * NUM_CODES + drawn.codes[..., 1]).view(2, 3, -1)
    for mixture, candidate in itertools.product(range(2), range(3)):
        frequencies = torch.bincount(keys[mixture, candidate], minlength=NUM_CODES**2) / 50_000
        expected = dense[mixture, candidate].softmax(-1)
        assert (frequencies - expected).abs().max() < 0.01  # five standard errors of a proportion


# ---- Algorithm 1


def test_shared_prior_in_one_pass_equals_two_equal_priors():
    world = random_world(3, shared=True)
    twin = TablePrior(world.priors[0].initial, world.priors[0].transition)
    mixtures = torch.tensor([[1, 0, 2], [2, 2, 1]])
    shared = separate_codes(mixtures, world.priors, world.likelihood, Ancestral(30), seed=1)
    apart = separate_codes(mixtures, [world.priors[0], twin], world.likelihood, Ancestral(30), seed=1)
    assert torch.equal(shared.codes, apart.codes)
    assert len(BatchedPriors(world.priors, None)._shared) == 1


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("at_once", [128, 2**12])
def test_conditions_reach_the_prior_of_their_source(shared, at_once, device, monkeypatch):
    monkeypatch.setitem(algorithm.SEQUENCES_AT_ONCE, "cpu", at_once)
    world = random_world(5, shared=shared, num_classes=3)
    mixtures = torch.tensor([[1, 0], [1, 0], [2, 2]])
    conditions = torch.tensor([[0, 2], [1, 1], [2, 0]])
    result = world.separate(mixtures.tolist(), BeamSearch(81), device, conditions=conditions)
    for row, labels in enumerate(conditions.tolist()):
        exact = world.all_posteriors(mixtures[row].tolist(), labels=labels)
        best = max(exact, key=exact.get)
        assert as_sequences(result.codes[row, 0]) == best
        assert result.scores[row, 0].item() == pytest.approx(exact[best], abs=1e-4)


def test_a_mixture_code_that_was_never_counted_is_its_own_pair():
    world = random_world(0)
    counts = SparseCounts(3)
    counts.add(*torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 0]]).T)  # mixture code 2 never occurs
    for sampler in (Greedy(), Ancestral(5), TopK(5), BeamSearch(5)):
        result = separate_codes(torch.tensor([[0, 2, 1]]), world.priors, counts.likelihood(), sampler)
        finite = result.codes[0][result.scores[0].isfinite()]
        assert len(finite)
        assert (finite[:, :, 1] == 2).all()


def test_a_prior_that_breaks_its_contract_is_named():
    world = random_world(0)

    class NoRow(TablePrior):
        def step(self, state, codes):
            return super().step(state, codes)[:0]

    prior = NoRow(world.priors[0].initial, world.priors[0].transition)
    with pytest.raises(LassError, match=r"NoRow.step must return .* = \(1, 3\), but returned \(0, 3\)"):
        separate_codes(torch.tensor([[0], [1]]), [prior, prior], world.likelihood, Greedy())


def test_impossible_candidates_have_no_weight():
    world = random_world(0)
    result = separate_codes(torch.tensor([[1]]), world.priors, world.likelihood, BeamSearch(12))
    assert result.scores[0].isfinite().sum() == 9  # only nine pairs exist
    assert torch.equal(result.weights[0] > 0, result.scores[0].isfinite())
    assert result.weights.sum().item() == pytest.approx(1.0, abs=1e-5)  # nine float32 terms


def test_parts_that_do_not_fit_are_refused():
    world = random_world(0)
    good = {
        "mixture_codes": torch.tensor([[0, 1]]),
        "priors": world.priors,
        "likelihood": world.likelihood,
        "sampler": Greedy(),
    }
    for changed, message in [
        ({"priors": world.priors[:1]}, "so for 2 priors"),
        ({"past": torch.zeros(1, 3, 1, dtype=torch.long)}, "past of 1 mixtures and 2 sources"),
        ({"mixing_weights": [0.5]}, "one number above 0 for each of 2 sources"),
        ({"mixing_weights": [0.5, -0.5]}, "each of mixing_weights must be"),
        ({"priors": random_world(0, num_codes=4).priors}, "has 4 codes and the likelihood 3"),
        ({"mixture_codes": torch.tensor([[0, 3]])}, r"must be in 0…2, got 0…3"),
        ({"mixture_codes": torch.zeros(1, 0, dtype=torch.long)}, "got 1 mixtures of 0 codes"),
        ({"mixture_codes": torch.zeros(0, 2, dtype=torch.long)}, "got 0 mixtures of 2 codes"),
        ({"conditions": torch.zeros(2, 2, dtype=torch.long)}, "conditions of shape"),
        ({"indices": [1, 2]}, "one index for each of 1 mixtures"),
    ]:
        with pytest.raises(LassError, match=message):
            separate_codes(**{**good, **changed})


# ---- selection and refinement, on a small untrained codec


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return ImageVQVAE(image_shape=(1, 8, 8), num_codes=6, width=8, latent_dim=4).eval()


def candidates(codes: torch.Tensor, scores: torch.Tensor) -> Candidates:
    return Candidates(codes, scores, torch.full_like(scores, 1 / scores.shape[1]))


def test_selection_finds_the_candidate_that_mixes_into_the_mixture(codec):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(6, (3, 20, 2, 4), generator=generator)
    truth = [7, 0, 19]
    sources = torch.stack([codec.decode(codes[m, n].view(2, 2, 2)) for m, n in enumerate(truth)])
    chosen = ClosestToMixture(batch_size=3).select(candidates(codes, torch.zeros(3, 20)), mix(sources), codec, (2, 2))
    assert chosen.tolist() == truth


def test_selection_leaves_impossible_candidates_alone(codec):
    codes = torch.randint(6, (1, 5, 2, 4), generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([[0.0, -1.0, -torch.inf, -torch.inf, -torch.inf]])
    mixture = mix(codec.decode(codes[0, 3].view(2, 2, 2))[None])
    assert ClosestToMixture().select(candidates(codes, scores), mixture, codec, (2, 2)).item() in (0, 1)
    assert HighestScore().select(candidates(codes, scores), mixture, codec, (2, 2)).item() == 0


def test_refinement_descends_and_treats_mixtures_alone(codec):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(6, (3, 2, 2, 2), generator=generator)
    mixtures = torch.rand(3, 1, 8, 8, generator=generator)
    latents = codec.embed(codes.flatten(0, 1)).unflatten(0, (3, 2))
    decoded = NoRefinement().refine(latents, mixtures, codec)
    # A convolution may sum its 72 float32 terms in an order that depends on the batch.
    torch.testing.assert_close(decoded[1, 0], codec.decode(codes[1, :1])[0], atol=1e-5, rtol=0)
    refined = LatentDescent(steps=60).refine(latents, mixtures, codec)
    before, after = ((mix(x) - mixtures).square().flatten(1).mean(1) for x in (decoded, refined))
    assert (after < before).all()
    assert not refined.requires_grad
    alone = LatentDescent(steps=60).refine(latents[2:], mixtures[2:], codec)
    torch.testing.assert_close(alone[0], refined[2], atol=1e-4, rtol=1e-4)
    with torch.inference_mode():  # as in Trainer.predict
        inside = LatentDescent(steps=60).refine(latents, mixtures, codec)
    torch.testing.assert_close(inside, refined, atol=1e-5, rtol=1e-5)


def test_refinement_follows_its_formula(codec):
    """Two Adam steps computed explicitly, with finite differences of the objective."""
    codes = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    mixture = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    codec = codec.double()
    start = codec.embed(codes[0])

    def loss(latents):
        misfit = ((codec.decode_latents(latents).mean(0) - mixture[0].double()) ** 2).mean()
        return misfit + 0.5 * ((latents - start) ** 2).flatten(1).mean(1).sum()

    latents, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in (1, 2):
        gradient = torch.zeros_like(latents)
        for position in itertools.product(*map(range, latents.shape)):
            nudge = torch.zeros_like(latents)
            nudge[position] = 1e-6
            gradient[position] = (loss(latents + nudge) - loss(latents - nudge)) / 2e-6
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 0.1 if step == 1 else 0.05
        latents = latents - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    refined = LatentDescent(steps=2, learning_rate=0.1, halve_every=1, proximal_weight=0.5).refine(
        start[None], mixture.double(), codec
    )
    with torch.no_grad():
        torch.testing.assert_close(refined[0], codec.decode_latents(latents), atol=1e-6, rtol=0)


def test_consistent_estimates_of_two_sources_have_a_closed_form():
    """The pair of pixels moves along (1, −1) from the projection on the line of pairs that mix into the mixture."""
    generator = torch.Generator().manual_seed(0)
    estimates = torch.rand(4, 2, 1, 8, 8, generator=generator) * 1.6 - 0.3
    mixtures = torch.rand(4, 1, 8, 8, generator=generator)
    first = estimates[:, 0] + mixtures - estimates.mean(1)
    first = torch.maximum(torch.minimum(first, (2 * mixtures).clamp(max=1)), (2 * mixtures - 1).clamp(min=0))
    expected = torch.stack([first, 2 * mixtures - first], 1)
    # float32 pixels in [0, 1]
    torch.testing.assert_close(nearest_consistent(estimates, mixtures), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("weights", [None, [0.6, 0.3, 0.1], [0.5, 0.2, 0.2], [0.7, 0.2, 0.05, 0.05]], ids=str)
def test_consistent_estimates_are_the_nearest_that_mix_into_the_mixture(weights):
    """Compare with a general optimiser of each pixel, and where no pixels mix into the mixture with the nearest ones.

    SLSQP solves the quadratic program to about 1e-7; float32 pixels are in [0, 1].
    """
    generator, num_sources = torch.Generator().manual_seed(0), len(weights or "123")
    estimates = torch.rand(1, num_sources, 1, 5, 5, generator=generator) * 1.6 - 0.3
    mixtures = torch.rand(1, 1, 5, 5, generator=generator)
    mixtures[0, 0, 0] = torch.tensor([0.0, 1e-3, 0.5, 0.999, 1.0])
    found = nearest_consistent(estimates, mixtures, weights)
    assert found.min() >= 0
    assert found.max() <= 1
    factors = np.array(weights or [1 / 3] * 3)
    reached = mixtures.clamp(max=float(factors.sum()))
    torch.testing.assert_close(mix(found, weights), reached, atol=2e-6, rtol=0)
    pixels = zip(estimates.flatten(2)[0].T, found.flatten(2)[0].T, reached.flatten().tolist(), strict=True)
    for given, projected, mixture in pixels:
        target = given.double().numpy()
        truth = minimize(
            lambda x, target=target: ((x - target) ** 2).sum(),
            np.full(num_sources, min(mixture / factors.sum(), 1)),
            jac=lambda x, target=target: 2 * (x - target),
            bounds=[(0, 1)] * num_sources,
            constraints={"type": "eq", "fun": lambda x, y=mixture: factors @ x - y, "jac": lambda x: factors},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(projected.numpy(), truth.x, atol=2e-5)


#: Groups of the sources of three mixtures: all exchangeable, none, and the first with the last.
GROUPS = torch.tensor([[0, 0, 0], [0, 1, 2], [0, 1, 0]])


def allowed_orders(group: torch.Tensor):
    """Return all permutations of the sources within their groups."""
    orders = itertools.permutations(range(len(group)))
    return [list(order) for order in orders if torch.equal(group[list(order)], group)]


@pytest.mark.parametrize("num_sources", [2, 3])
def test_latent_moments_are_those_of_the_candidates_in_one_order(codec, num_sources):
    """Compare with a loop over candidates, each with its sources in every allowed order."""
    generator, groups = torch.Generator().manual_seed(0), GROUPS[:, :num_sources]
    codes = torch.randint(6, (3, 7, num_sources, 4), generator=generator)
    codes[:, 3] = codes[:, 1].flip(1)  # one candidate twice, with its sources reversed
    weights = torch.rand(3, 7, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    chosen = torch.tensor([1, 3, 0])
    several = Candidates(codes, torch.zeros(3, 7), weights)
    found, variances = latent_moments(several, chosen, codec, (2, 2), groups)
    for m, best in enumerate(chosen.tolist()):
        embedded = [codec.embed(codes[m, n].view(num_sources, 2, 2)) for n in range(7)]
        total, squares = torch.zeros_like(embedded[0]), torch.zeros_like(embedded[0])
        for weight, latents in zip(weights[m], embedded, strict=True):
            orders = [latents[order] for order in allowed_orders(groups[m])]
            ordered = min(orders, key=lambda x: (x - embedded[best]).square().sum())
            total += weight * ordered
            squares += weight * ordered.square()
        torch.testing.assert_close(found[m], total, atol=1e-5, rtol=0)  # seven float32 terms below 4
        torch.testing.assert_close(variances[m], squares - total.square(), atol=1e-5, rtol=0)
    in_double = Candidates(codes, torch.zeros(3, 7).double(), weights.double())  # a prior in double precision
    torch.testing.assert_close(latent_moments(in_double, chosen, codec, (2, 2), groups)[0], found)
    impossible = Candidates(codes, torch.full((3, 7), -torch.inf), torch.zeros(3, 7))
    found, variances = latent_moments(impossible, chosen, codec, (2, 2), groups)
    torch.testing.assert_close(found[0], codec.embed(codes[0, 1].view(num_sources, 2, 2)))
    assert not variances[0].any()


@pytest.mark.parametrize("num_sources", [2, 3])
def test_entropy_is_that_of_the_weighted_tuples(num_sources):
    """Compare with a dictionary; tuples that differ by the order of exchangeable sources are one outcome."""
    generator, groups = torch.Generator().manual_seed(0), GROUPS[:, :num_sources]
    codes = torch.randint(3, (3, 50, num_sources, 4), generator=generator)
    codes[:, :, :, 3] = 2  # all candidates agree
    weights = torch.rand(3, 50, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    found = entropy_by_position(Candidates(codes, torch.zeros(3, 50), weights), groups)
    for mixture, position in itertools.product(range(3), range(4)):
        shares = Counter()
        for candidate in range(50):
            chosen = codes[mixture, candidate, :, position]
            outcome = min(tuple(chosen[order].tolist()) for order in allowed_orders(groups[mixture]))
            shares[outcome] += weights[mixture, candidate].item()
        expected = -sum(share * math.log(share) for share in shares.values())
        assert found[mixture, position].item() == pytest.approx(expected, abs=1e-5)
    assert found[:, 3].abs().max() < 1e-6


# ---- Separator


@pytest.fixture
def separator(codec):
    torch.manual_seed(1)
    prior = TransformerPrior(num_codes=6, num_positions=4, dim=8, num_layers=1).eval()
    prior.codec_fingerprint = fingerprint(codec)
    counts = SparseCounts(6, codec_fingerprint=fingerprint(codec))
    counts.add(*torch.randint(6, (3, 400), generator=torch.Generator().manual_seed(0)))
    return Separator(codec, prior, counts.likelihood(), TopK(16, k=4), refinement=LatentDescent(steps=3))


@pytest.fixture
def additive(codec, separator):
    """Separator of three sources that share a prior, with an additive likelihood."""
    signals = torch.rand(40, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    likelihood, refinement = fitted_additive(codec, signals), LatentDescent(steps=3)
    return Separator(
        codec, separator.priors[0], likelihood, SequentialMonteCarlo(8), refinement=refinement, num_sources=3
    )


def test_separator_returns_what_it_promises(separator):
    mixture = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = separator.separate(mixture)
    assert result.estimates.shape == (2, 1, 8, 8)
    assert result.codes.shape == (2, 2, 2)
    assert result.scores.shape == (16,)
    assert result.entropy.shape == (2, 2)
    torch.testing.assert_close(result.residual, mixture - result.estimates.mean(0))
    again = separator.separate_batch(torch.stack([mixture, mixture.flip(1)]))
    torch.testing.assert_close(again.estimates[0], result.estimates, atol=1e-4, rtol=1e-4)


def test_sources_with_equal_priors_classes_and_weights_are_exchangeable(separator, additive):
    classes = torch.tensor([[3, 3], [3, 1]])
    assert separator.exchangeable(None, 2).tolist() == [[0, 0], [0, 0]]
    assert separator.exchangeable(classes, 2).tolist() == [[0, 0], [0, 1]]
    separator.priors = [separator.priors[0], copy.deepcopy(separator.priors[0])]
    assert separator.exchangeable(None, 2).tolist() == separator.exchangeable(classes, 2).tolist() == [[0, 1], [0, 1]]
    classes = torch.tensor([[3, 3, 3], [3, 1, 3], [1, 1, 3], [0, 1, 2]])
    assert additive.exchangeable(None, 1).tolist() == [[0, 0, 0]]
    assert additive.exchangeable(classes, 4).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 2], [0, 1, 2]]
    additive.mixing_weights = [0.25, 0.5, 0.25]
    assert additive.exchangeable(None, 1).tolist() == [[0, 1, 0]]
    assert additive.exchangeable(classes, 4).tolist() == [[0, 1, 0], [0, 1, 0], [0, 1, 2], [0, 1, 2]]
    additive.priors = [*additive.priors[:2], copy.deepcopy(additive.priors[0])]
    assert additive.exchangeable(None, 1).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("weights", [None, [0.5, 0.3, 0.2]])
@pytest.mark.parametrize("average", [False, True])
def test_three_sources_are_separated_as_a_saved_separator_does(additive, tmp_path, average, weights):
    made = Separator(
        additive.codec,
        additive.priors,
        additive.likelihood,
        SequentialMonteCarlo(8),
        refinement=LatentDescent(steps=3, project_to_mixture=True),
        posterior_mean=average,
        mixing_weights=weights,
    )
    mixtures = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    result = made.separate_batch(mixtures, seed=4)
    assert result.estimates.shape == (2, 3, 1, 8, 8)
    assert result.codes.shape == (2, 3, 2, 2)
    torch.testing.assert_close(mix(result.estimates, weights), mixtures, atol=1e-5, rtol=0)  # float32 in [0, 1]
    torch.testing.assert_close(result.residual, torch.zeros_like(mixtures), atol=1e-5, rtol=0)
    again = Separator.from_pretrained(made.save_pretrained(tmp_path))
    assert again.settings == made.settings
    assert again.mixing_weights == weights
    assert len({*again.priors}) == 1
    repeated = again.separate_batch(mixtures, seed=4)
    assert torch.equal(repeated.codes, result.codes)
    torch.testing.assert_close(repeated.estimates, result.estimates)


def test_a_saved_separator_serves_another_number_of_sources_where_they_are_alike(separator, additive, tmp_path):
    folder = additive.save_pretrained(tmp_path / "alike")
    mixture = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert Separator.from_pretrained(folder).separate(mixture).estimates.shape[0] == 3
    for num_sources in (2, 3, 5):
        again = Separator.from_pretrained(folder, num_sources)
        assert again.separate(mixture).estimates.shape == (num_sources, 1, 8, 8)
    for num_sources, message in ((0, "num_sources must be an integer"), (65, "num_sources must be an integer")):
        with pytest.raises(LassError, match=message):
            Separator.from_pretrained(folder, num_sources)
    with pytest.raises(
        LassError, match=r"This SparseLikelihood is for 2 sources.*got 3: an AdditiveLikelihood serves any"
    ):
        Separator.from_pretrained(separator.save_pretrained(tmp_path / "counted"), 3)
    additive.mixing_weights = [0.5, 0.3, 0.2]
    folder = additive.save_pretrained(tmp_path / "weighted")
    assert len(Separator.from_pretrained(folder, 3).priors) == 3
    with pytest.raises(LassError, match=r"is for 3 different sources: num_sources can only be changed"):
        Separator.from_pretrained(folder, 2)
    priors = [additive.priors[0], copy.deepcopy(additive.priors[0])]
    folder = Separator(additive.codec, priors, additive.likelihood).save_pretrained(tmp_path / "different")
    assert len(Separator.from_pretrained(folder, 2).priors) == 2
    with pytest.raises(LassError, match=r"is for 2 different sources: num_sources can only be changed"):
        Separator.from_pretrained(folder, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sources": 4}, "There are 3 priors for 4 sources"),
        ({"mixing_weights": [0.5, 0.5]}, "weights must be 3 numbers, one for each source of a mixture, not 2"),
        ({"mixing_weights": [0.5, 0.5, 0.5]}, "weights must have a sum of at most 1"),
        ({"mixing_weights": [0.5, 0.5, 0.0]}, "each of weights must be a number, above 0"),
        ({"source_names": ["a", "b"]}, "a different name for each of 3 sources"),
    ],
    ids=str,
)
def test_separators_refuse_options_for_another_number_of_sources(additive, options, message):
    with pytest.raises(LassError, match=message):
        Separator(additive.codec, additive.priors, additive.likelihood, **options)


def test_averaging_refines_the_mean_of_the_candidates(separator, tmp_path):
    """The estimate is the decoded mean, which differs from a single candidate's; the setting is saved."""
    separator.posterior_mean, separator.refinement = True, NoRefinement()
    mixtures = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = separator.separate_batch(mixtures)
    candidates = separate_codes(
        separator.codec.encode(mixtures).flatten(1), separator.priors, separator.likelihood, separator.sampler
    )
    chosen = separator.selection.select(candidates, mixtures, separator.codec, (2, 2))
    latents, _ = latent_moments(candidates, chosen, separator.codec, (2, 2), torch.zeros(2, 2, dtype=torch.long))
    decoded = separator.codec.decode_latents(latents.flatten(0, 1)).view_as(result.estimates)
    torch.testing.assert_close(result.estimates, decoded)
    again = Separator.from_pretrained(separator.save_pretrained(tmp_path))
    torch.testing.assert_close(again.separate_batch(mixtures).estimates, result.estimates)
    again.posterior_mean = False
    assert not torch.allclose(again.separate_batch(mixtures).estimates, result.estimates, atol=1e-4)


def test_separator_passes_the_variance_of_its_candidates(separator, tmp_path):
    """The refinement sees the moments of the candidates; without posterior_mean their variance is 0; it is saved."""
    seen = []

    class Seen(PosteriorDescent):
        def refine_posterior(self, latents, variances, mixtures, codec, weights=None):
            seen.append(variances)
            return super().refine_posterior(latents, variances, mixtures, codec, weights)

    mixtures = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    separator.refinement = Seen(steps=2)
    for separator.posterior_mean in (False, True):
        separator.separate_batch(mixtures)
    assert not seen[0].any()
    assert seen[1].amax() > 0
    separator.refinement = PosteriorDescent(steps=2, probes=3)
    again = Separator.from_pretrained(separator.save_pretrained(tmp_path))
    assert again.refinement == separator.refinement
    torch.testing.assert_close(again.separate_batch(mixtures).estimates, separator.separate_batch(mixtures).estimates)


@pytest.mark.parametrize("shared", [True, False])
def test_saved_separator_gives_the_same_result(separator, tmp_path, shared):
    if not shared:
        other = TransformerPrior(num_codes=6, num_positions=4, dim=8, num_layers=2).eval()
        separator = Separator(
            separator.codec,
            [separator.priors[0], other],
            separator.likelihood,
            TopK(16, k=4),
            HighestScore(),
            NoRefinement(),
            2.0,
        )
    mixture = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    again = Separator.from_pretrained(separator.save_pretrained(tmp_path / "separator"))
    assert again.settings == separator.settings
    assert (again.priors[0] is again.priors[1]) == shared
    mine, theirs = separator.separate(mixture, seed=4), again.separate(mixture, seed=4)
    assert torch.equal(mine.codes, theirs.codes)
    torch.testing.assert_close(mine.estimates, theirs.estimates)


def test_separator_refuses_what_it_cannot_separate(separator):
    with pytest.raises(LassError, match="NaN or infinite"):
        separator.separate(torch.full((1, 8, 8), math.nan))
    with pytest.raises(LassError, match=r"images of 1×8×8, but got 1×12×8: resize"):
        separator.separate(torch.zeros(1, 12, 8))
    with pytest.raises(LassError, match=r"1×8×8, but got 3×8×8"):
        separator.separate(torch.zeros(3, 8, 8))


def test_separator_takes_any_floating_point_image(separator):
    mixture = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(separator.separate(mixture.double()).codes, separator.separate(mixture).codes)
    with pytest.raises(LassError, match=r"torch.uint8: expected floating-point"):
        separator.separate(torch.zeros(1, 8, 8, dtype=torch.uint8))


def test_what_cannot_be_saved_says_why(separator, tmp_path):
    class Unregistered:
        num_candidates = 1

    separator.sampler = Unregistered()
    with pytest.raises(LassError, match=r"Unregistered cannot be saved.*@lass.artifacts.register"):
        separator.save_pretrained(tmp_path)
    separator.sampler = Ancestral(1)
    separator.priors = [random_world(0, num_codes=6).priors[0]] * 2
    with pytest.raises(LassError, match=r"This prior, a TablePrior, cannot be saved"):
        separator.save_pretrained(tmp_path)


def test_a_prior_of_another_length_is_refused(separator):
    longer = TransformerPrior(num_codes=6, num_positions=9, dim=8, num_layers=1)
    with pytest.raises(LassError, match="codec gives 4 codes for a signal, but the prior was made for 9"):
        Separator(separator.codec, longer, separator.likelihood)


@pytest.fixture
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize(("average", "inference"), [(False, True), (True, True), (True, False)])
def test_all_devices_give_the_same_estimates(separator, average, inference, device):
    """From images to images: codec, priors, likelihood, sampler, selection or mean, refinement, entropy."""
    separator.posterior_mean = average
    mixtures = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = separator.separate_batch(mixtures)
    with torch.inference_mode(inference):  # as in Trainer.predict, within which the models are moved
        result = separator.to(device).separate_batch(mixtures)
    # The order of sums depends on the device, and Adam amplifies differences of small gradients.
    for name in ("estimates", "residual", "scores", "weights", "entropy"):
        torch.testing.assert_close(getattr(result, name).cpu(), getattr(expected, name), atol=1e-3, rtol=1e-3)
    assert torch.equal(result.codes.cpu(), expected.codes)


def test_parts_made_for_another_codec_are_refused(separator):
    torch.manual_seed(9)
    other = ImageVQVAE(image_shape=(1, 8, 8), num_codes=6, width=8, latent_dim=4)
    with pytest.raises(LassError, match="prior was made for the codec"):
        Separator(other, separator.priors, separator.likelihood)
    separator.priors[0].codec_fingerprint = None
    with pytest.raises(LassError, match="likelihood was made for the codec"):
        Separator(other, separator.priors, separator.likelihood)
    bigger = ImageVQVAE(image_shape=(1, 8, 8), num_codes=7, width=8, latent_dim=4)
    with pytest.raises(LassError, match="codec has 7 codes, but the prior was made for 6"):
        Separator(bigger, separator.priors, separator.likelihood)


def test_incomplete_separator_folders_are_refused(separator, tmp_path):
    with pytest.raises(LassError, match="There is no separator"):
        Separator.from_pretrained(tmp_path / "nothing")
    folder = separator.save_pretrained(tmp_path / "separator")
    (folder / "prior" / "config.json").unlink()
    with pytest.raises(LassError, match="There is no prior"):
        Separator.from_pretrained(folder)
    separator.save_pretrained(folder)
    (folder / "separator.json").write_text((folder / "separator.json").read_text().replace("TopK", "os.system"))
    with pytest.raises(LassError, match="not among the known ones"):
        Separator.from_pretrained(folder)
    (folder / "separator.json").write_text('{"format": 2}')
    with pytest.raises(LassError, match="lacks 'priors'"):
        Separator.from_pretrained(folder)
