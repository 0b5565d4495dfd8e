"""Algorithm 1, the posterior of one position, selection, refinement, and the `Separator`."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter

import pytest
import torch
from simulated_device import SIMULATED
from toy_worlds import TablePrior, as_sequences, random_world

from lass import LassError, Separator, SparseCounts, separate_codes
from lass.artifacts import fingerprint
from lass.codecs import ImageVQVAE
from lass.data.mixing import mix
from lass.devices.numerics import widest_float
from lass.likelihood import Pairs
from lass.priors import TransformerPrior
from lass.samplers import Ancestral, BeamSearch, Greedy, TopK
from lass.separation import Candidates, ClosestToMixture, HighestScore, LatentDescent, NoRefinement, algorithm
from lass.separation.batched_priors import BatchedPriors, LogPrior
from lass.separation.entropy import entropy_by_position
from lass.separation.posterior import StepPosterior
from lass.separation.posterior_mean import mean_latents
from lass.separation.refinement import nearest_consistent

# ---- the posterior of one position


NUM_CODES = 6


def make_step(shift: float = 0.0, device: str = "cpu"):
    """Return log priors of 2 mixtures × 3 candidates, pairs of different number, and the dense log posterior (on the
    CPU).

    `shift` is added to the log prior of the codes 0…2, to which the pairs of the first mixture are restricted.
    """
    generator = torch.Generator().manual_seed(0)
    row_of = torch.tensor([[0, 1, 0], [2, 3, 4]]), torch.tensor([[3, 3, 3], [0, 0, 1]])  # candidates share rows
    logits = [torch.randn(5, NUM_CODES, generator=generator) for _ in range(2)]
    for rows in logits:
        rows[:, :3] += shift
    log_priors = [LogPrior(rows.log_softmax(-1), of) for rows, of in zip(logits, row_of, strict=True)]
    pairs, dense = [], torch.full((2, 3, NUM_CODES, NUM_CODES), -torch.inf)
    for mixture, (num_pairs, side) in enumerate([(7, 3), (17, NUM_CODES)]):
        chosen = torch.randperm(side * side, generator=generator)[:num_pairs].sort().values
        first, second = chosen // side, chosen % side
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
    entropy = posterior.entropy().cpu()
    # Probabilities are off by the rounding of log posteriors around 2000: 1.2e-4.
    torch.testing.assert_close(entropy, torch.special.entr(probabilities).sum(-1), atol=1e-3, rtol=0)
    for p in (0.3, 0.9):
        lowest = posterior.nucleus(p).cpu()
        ranked = probabilities.sort(-1, descending=True).values
        before = torch.nn.functional.pad(ranked.cumsum(-1)[..., :-1], (1, 0))
        num_kept = (before < p).sum(-1)
        # The next log posterior differs from the lowest by more than five times this tolerance.
        assert torch.equal((dense >= lowest[..., None] * (1 + 1e-7) - 1e-5).sum(-1), num_kept)
    for k in (1, 3, 20):
        first, second, log_posterior = (field.cpu() for field in posterior.best(k))
        expected = dense.topk(k, -1).values
        torch.testing.assert_close(log_posterior, expected, **ROUNDING)
        real = expected.isfinite()
        found = first * NUM_CODES + second  # any order among equal log posteriors
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
        given = uniforms.to(widest_float(device)).to(device)
        first, second, log_posterior = (
            field.cpu() for field in posterior.draw(parents_of(num // 3).to(device), given, temperature)
        )
        assert torch.equal((first * NUM_CODES + second)[clear], expected[clear])
        exact = dense.gather(2, expected.view(2, 3, -1)).view(2, num)
        torch.testing.assert_close(log_posterior[clear], exact[clear], **ROUNDING)


def test_drawn_pairs_have_the_frequencies_of_the_posterior():
    log_priors, pairs, dense = make_step()
    uniforms = torch.rand(2, 150_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
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
        ({"priors": world.priors[:1]}, "two priors"),
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


def test_consistent_estimates_are_the_nearest_that_mix_into_the_mixture():
    """Compare with a grid search over all pairs of pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    estimates = torch.rand(1, 2, 1, 3, 3, generator=generator) * 1.6 - 0.3
    mixtures = torch.rand(1, 1, 3, 3, generator=generator)
    found = nearest_consistent(estimates, mixtures)
    torch.testing.assert_close(mix(found), mixtures, atol=1e-6, rtol=0)  # float32 pixels in [0, 1]
    assert found.min() >= 0
    assert found.max() <= 1
    first = torch.linspace(0, 1, 10_001)
    for (a, b), (x, y), m in zip(
        estimates.flatten(2)[0].T.tolist(), found.flatten(2)[0].T.tolist(), mixtures.flatten().tolist(), strict=True
    ):
        second = 2 * m - first
        allowed = (second >= 0) & (second <= 1)
        nearest = ((first - a) ** 2 + (second - b) ** 2)[allowed].min()
        assert (x - a) ** 2 + (y - b) ** 2 == pytest.approx(nearest.item(), abs=1e-3)


def test_mean_latents_are_the_weighted_mean_in_one_order(codec):
    """Compare with a loop over candidates, each with its sources in both orders."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(6, (2, 7, 2, 4), generator=generator)
    codes[:, 3] = codes[:, 1].flip(1)  # one candidate twice, with its sources exchanged
    weights = torch.rand(2, 7, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    chosen = torch.tensor([1, 3])
    several = Candidates(codes, torch.zeros(2, 7), weights)
    exchangeable = torch.tensor([True, False])
    found = mean_latents(several, chosen, codec, (2, 2), exchangeable)
    for m, best in enumerate(chosen.tolist()):
        embedded = [codec.embed(codes[m, n].view(2, 2, 2)) for n in range(7)]
        total = torch.zeros_like(embedded[0])
        for weight, latents in zip(weights[m], embedded, strict=True):
            orders = [latents, latents.flip(0)] if exchangeable[m] else [latents]
            total += weight * min(orders, key=lambda x: (x - embedded[best]).square().sum())
        torch.testing.assert_close(found[m], total, atol=1e-5, rtol=0)  # seven float32 terms below 4
    in_double = Candidates(codes, torch.zeros(2, 7).double(), weights.double())  # a prior in double precision
    torch.testing.assert_close(mean_latents(in_double, chosen, codec, (2, 2), exchangeable), found)
    impossible = Candidates(codes, torch.full((2, 7), -torch.inf), torch.zeros(2, 7))
    found = mean_latents(impossible, chosen, codec, (2, 2), exchangeable)
    torch.testing.assert_close(found[0], codec.embed(codes[0, 1].view(2, 2, 2)))


def test_entropy_is_that_of_the_weighted_pairs():
    """Compare with a dictionary; a pair and its reverse are one outcome only for exchangeable sources."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(3, (2, 50, 2, 4), generator=generator)
    codes[:, :, :, 3] = 2  # all candidates agree
    weights = torch.rand(2, 50, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    found = entropy_by_position(Candidates(codes, torch.zeros(2, 50), weights), torch.tensor([True, False]))
    for mixture, position in itertools.product(range(2), range(4)):
        shares = Counter()
        for candidate in range(50):
            pair = tuple(codes[mixture, candidate, :, position].tolist())
            shares[tuple(sorted(pair)) if mixture == 0 else pair] += weights[mixture, candidate].item()
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


def test_only_equal_priors_and_classes_leave_the_order_open(separator):
    classes = torch.tensor([[3, 3], [3, 1]])
    assert separator.exchangeable(None, 2).tolist() == [True, True]
    assert separator.exchangeable(classes, 2).tolist() == [True, False]
    separator.priors = [separator.priors[0], copy.deepcopy(separator.priors[0])]
    assert separator.exchangeable(None, 2).tolist() == separator.exchangeable(classes, 2).tolist() == [False, False]


def test_averaging_refines_the_mean_of_the_candidates(separator, tmp_path):
    """The estimate is the decoded mean, which differs from a single candidate's; the setting is saved."""
    separator.posterior_mean, separator.refinement = True, NoRefinement()
    mixtures = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = separator.separate_batch(mixtures)
    candidates = separate_codes(
        separator.codec.encode(mixtures).flatten(1), separator.priors, separator.likelihood, separator.sampler
    )
    chosen = separator.selection.select(candidates, mixtures, separator.codec, (2, 2))
    latents = mean_latents(candidates, chosen, separator.codec, (2, 2), torch.tensor([True, True]))
    decoded = separator.codec.decode_latents(latents.flatten(0, 1)).view_as(result.estimates)
    torch.testing.assert_close(result.estimates, decoded)
    again = Separator.from_pretrained(separator.save_pretrained(tmp_path))
    torch.testing.assert_close(again.separate_batch(mixtures).estimates, result.estimates)
    again.posterior_mean = False
    assert not torch.allclose(again.separate_batch(mixtures).estimates, result.estimates, atol=1e-4)


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
