"""TransformerPrior: cached steps compared with the full pass, and the contract of `Prior`."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from toy_worlds import random_world

from lass import LassError
from lass.artifacts import fingerprint
from lass.priors import JukeboxPrior, Prior, TransformerPrior, load_prior, sample_codes
from lass.priors.transformer import rotate, rotation

K, T = 7, 6


#: Tolerance of log probabilities. They reach 30, where float32 rounds to 2e-6; over several layers, with and without a
#: cache, and across CPUs and BLAS libraries, the error grows to 1e-5. A wrong position, parent or class changes them by
#: more than 1e-2.
CLOSE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(params=["learned", "rotary"])
def prior(request):
    torch.manual_seed(0)
    sizes = {"num_codes": K, "num_positions": T, "dim": 16, "num_layers": 2, "num_heads": 4}
    model = TransformerPrior(**sizes, positions=request.param).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # predictions far from uniform
    return model


@pytest.fixture
def conditional():
    torch.manual_seed(1)
    model = TransformerPrior(num_codes=K, num_positions=T, dim=16, num_layers=2, num_classes=3).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def cached_log_prior(prior, codes, condition=None):
    state = prior.start(len(codes), condition)
    steps = [prior.step(state, codes[:, s - 1] if s else None) for s in range(codes.shape[1])]
    return torch.stack(steps, 1)


@torch.no_grad()
def test_cached_steps_equal_the_full_pass(prior, conditional):
    codes = torch.randint(K, (5, T), generator=torch.Generator().manual_seed(0))
    full = prior(codes).log_softmax(-1)
    torch.testing.assert_close(cached_log_prior(prior, codes), full, **CLOSE)
    labels = torch.tensor([0, 1, 2, 0, 1])
    full = conditional(codes, labels).log_softmax(-1)
    torch.testing.assert_close(cached_log_prior(conditional, codes, labels), full, **CLOSE)
    other = conditional(codes, (labels + 1) % 3).log_softmax(-1)
    assert (full - other).abs().max() > 0.1  # the class matters


@torch.no_grad()
@pytest.mark.parametrize("parents", [[3, 3, 0, 1], [2], [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3]], ids=str)
def test_cache_follows_its_parents(prior, parents):
    codes = torch.randint(K, (4, T), generator=torch.Generator().manual_seed(2))
    state = prior.start(4)
    for s in range(3):
        prior.step(state, codes[:, s - 1] if s else None)
    state = prior.select(state, torch.tensor(parents))
    continued = codes[parents]
    continued[:, 2:] = torch.randint(K, (len(parents), T - 2), generator=torch.Generator().manual_seed(3))
    full = prior(continued).log_softmax(-1)
    for s in range(3, T):
        torch.testing.assert_close(prior.step(state, continued[:, s - 1]), full[:, s], **CLOSE)


def test_no_position_sees_its_own_code_or_later_ones(prior):
    codes = torch.randint(K, (1, T), generator=torch.Generator().manual_seed(0))
    for position in range(T):
        changed = codes.clone()
        changed[:, position:] = (changed[:, position:] + 1) % K
        same = prior(codes)[:, : position + 1], prior(changed)[:, : position + 1]
        torch.testing.assert_close(*same, **CLOSE)
        if position < T - 1:
            assert (prior(codes) - prior(changed))[:, position + 1 :].abs().max() > 0.01


@torch.no_grad()
def test_predictions_are_normalised(prior):
    state = prior.start(3)
    assert isinstance(prior, Prior)
    for codes in (None, torch.tensor([1, 2, 3])):
        torch.testing.assert_close(prior.step(state, codes).exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_sequence_has_an_end(prior):
    state = prior.start(1)
    for s in range(T):
        prior.step(state, torch.tensor([0]) if s else None)
    with pytest.raises(LassError, match=f"sequences of {T} codes"):
        prior.step(state, torch.tensor([0]))


def test_rotary_attention_depends_on_distances_only():
    """The product of a rotated query and key is unchanged if both positions are shifted by the same number."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)

    def product(first, second):
        turned = [
            rotate(x, rotation(torch.tensor([position]), 8, like=x)) for x, position in ((query, first), (key, second))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert product(3, 1) == pytest.approx(product(1002, 1000), abs=1e-3)  # float32 rounds angles of 1,000 to 6e-5
    assert product(3, 1) != pytest.approx(product(4, 1), abs=1e-2)
    assert product(5, 5) == pytest.approx((query * key).sum().item(), abs=1e-5)


def test_positions_stay_apart_in_low_precision():
    """Angles are computed in float32, because bfloat16 rounds 1,000 and 1,001 to one value."""
    cos, sin = rotation(torch.tensor([1000, 1001]), 8, like=torch.zeros(1, dtype=torch.bfloat16))
    assert cos.dtype == torch.bfloat16
    angles = torch.atan2(sin.float(), cos.float())
    assert (angles[1, 0] - angles[0, 0]) % (2 * math.pi) == pytest.approx(1, abs=0.02)


def test_checkpointing_changes_no_gradient():
    codes = torch.randint(K, (3, T), generator=torch.Generator().manual_seed(0))
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = TransformerPrior(
            K, T, dim=16, num_heads=4, dropout=0.2, positions="rotary", checkpointing=checkpointing
        )
        model.train()
        torch.manual_seed(1)
        model(codes).logsumexp(-1).sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5 * gradients[0].abs().max().item())


def test_conditions_are_checked(prior, conditional):
    with pytest.raises(LassError, match="no condition; got one"):
        prior.start(2, torch.tensor([0, 1]))
    with pytest.raises(LassError, match=r"a class in 0…2 for each sequence; got none"):
        conditional.start(2)
    with pytest.raises(LassError, match=r"0…2; got 0…3"):
        conditional.start(2, torch.tensor([0, 3]))
    with pytest.raises(LassError, match="multiple of num_heads"):
        TransformerPrior(dim=10, num_heads=4)


def test_one_prior_with_and_without_the_class():
    """Sequences of class c contain only code c; without a class, all first codes are equally likely."""
    torch.manual_seed(0)
    prior = TransformerPrior(3, 2, dim=16, num_layers=1, num_heads=1, dropout=0.0, num_classes=3, class_dropout=0.5)
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    labels = torch.arange(3).repeat(20)
    codes = labels[:, None].expand(-1, 2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(prior(codes, labels).flatten(0, 1), codes.flatten()).backward()
        optimizer.step()
    prior.eval()
    with torch.no_grad():
        known, unknown = (cached_log_prior(prior, codes[:3], labels) for labels in (torch.arange(3), None))
    assert known[range(3), 0, range(3)].exp().min() > 0.9
    assert (unknown[:, 0].exp() - 1 / 3).abs().max() < 0.1
    assert unknown[range(3), 1, range(3)].exp().min() > 0.9  # the first code determines the class


@torch.no_grad()
def test_saved_prior_predicts_the_same(conditional, tmp_path):
    conditional.codec_fingerprint = "0123456789abcdef"
    again = load_prior(conditional.save_pretrained(tmp_path))
    codes, labels = torch.randint(K, (2, T)), torch.tensor([2, 0])
    assert fingerprint(again) == fingerprint(conditional)
    torch.testing.assert_close(again(codes, labels), conditional(codes, labels), **CLOSE)
    assert (again.codec_fingerprint, again.config) == ("0123456789abcdef", conditional.config)


def test_it_can_learn_a_rule():
    """The data counts upwards from a random start, so the first code is random and all others are determined."""
    torch.manual_seed(0)
    codes = (torch.arange(K)[:, None] + torch.arange(T)) % K
    prior = TransformerPrior(num_codes=K, num_positions=T, dim=32, num_layers=1, dropout=0.0)
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(prior(codes).flatten(0, 1), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    free = torch.log(torch.tensor(float(K))) / T
    assert loss.item() == pytest.approx(free.item(), abs=0.02)


def test_samples_follow_the_prior():
    """Frequencies of all sequences of three codes, within four standard deviations of 20,000 samples; also by class."""
    prior = random_world(3, num_codes=3).priors[0]
    samples = sample_codes(prior, 20_000, 3, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (20_000, 3)
    for sequence in itertools.product(range(3), repeat=3):
        probability = math.exp(prior.log_probability(sequence))
        share = (samples == torch.tensor(sequence)).all(1).float().mean().item()
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / 20_000) + 1e-9


def test_samples_have_the_class_that_was_asked_for(conditional):
    """Frequencies of first codes in 3,000 samples per class, within four standard deviations of the probabilities."""
    conditional.start_embedding.weight.data.mul_(10)  # so that the classes are distinguishable
    classes = torch.arange(3).repeat(3000)
    codes = sample_codes(conditional, 9000, 1, classes, torch.Generator().manual_seed(0))[:, 0]
    with torch.no_grad():
        expected = conditional.step(conditional.start(3, torch.arange(3)), None).exp()
    for label in range(3):
        shares = torch.bincount(codes[classes == label], minlength=K) / 3000
        assert ((shares - expected[label]).abs() < 4 * (expected[label] / 3000).sqrt()).all()
    assert (expected[0] - expected[1]).abs().max() > 0.1


@pytest.mark.parametrize("make", [TransformerPrior, JukeboxPrior], ids=lambda make: make.__name__)
def test_loaded_weights_keep_the_data_type_of_the_file(make, tmp_path):
    """They stay memory-mapped: large priors are not copied into float32."""
    make(num_codes=5, num_positions=4, dim=8, num_layers=1, num_heads=2).bfloat16().save_pretrained(tmp_path / "prior")
    assert {parameter.dtype for parameter in load_prior(tmp_path / "prior").parameters()} == {torch.bfloat16}
