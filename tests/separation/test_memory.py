"""Memory planning: predicted sizes of the priors' caches, and chunks of candidates where these do not fit."""

from __future__ import annotations

import psutil
import pytest
import torch
from measuring import LargestTensor
from toy_worlds import random_world

from lass import LassError, SparseCounts
from lass.likelihood import AdditiveLikelihood, ChainLikelihood
from lass.priors import TransformerPrior
from lass.priors.cache import KeyValueCache
from lass.samplers import Ancestral, BeamSearch, SequentialMonteCarlo, TopK, TopP
from lass.separation import memory, separate_codes
from lass.separation.batched_priors import LogPrior
from lass.separation.chain_posterior import ChainPosterior, _MixturePosterior
from lass.separation.tuple_posterior import TuplePosterior

NUM_CODES, NUM_POSITIONS = 6, 10


@pytest.fixture
def priors():
    torch.manual_seed(0)
    return [TransformerPrior(NUM_CODES, NUM_POSITIONS, 16, 2, 2).eval() for _ in range(2)]


@pytest.mark.parametrize(
    ("num_positions", "length"),
    [(10, 10), (64, 64), (65, 65), (200, 200), (256, 256), (300, 300), (300, 64), (300, 65), (300, 129), (10, 3)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_takes_what_was_foreseen(num_positions, length, dtype, monkeypatch):
    """The peak consists of the cache before and after it grows, and the prefix shared by all sequences."""
    sizes = []
    reallocate = KeyValueCache._reallocate

    def watched(cache, *args):
        before = cache._own.nbytes
        reallocate(cache, *args)
        sizes.append(before + cache._own.nbytes + cache._shared.nbytes + cache._origins.nbytes)

    monkeypatch.setattr(KeyValueCache, "_reallocate", watched)
    cache = KeyValueCache(2, 3, 4, num_positions, 7, torch.zeros(1, dtype=dtype))
    sizes.append(cache._own.nbytes + cache._shared.nbytes + cache._origins.nbytes)
    entry = torch.zeros(7, 3, 4, dtype=dtype)
    for _ in range(length):
        for layer in range(2):
            cache.attend(layer, entry, entry, entry)
        cache.advance()
    foreseen = KeyValueCache.bytes_for(2, 3, 4, num_positions, 7, length, dtype)
    assert max(sizes) <= foreseen <= 1.05 * max(sizes)


@pytest.mark.parametrize("sampler", [Ancestral(23), TopK(23, 3), TopP(23, 0.8)])
@pytest.mark.parametrize("num_priors", [1, 2])
def test_in_groups_the_candidates_are_the_same(priors, sampler, num_priors, monkeypatch):
    likelihood = random_world(1, NUM_CODES).likelihood
    priors = priors[:num_priors] * (3 - num_priors)
    mixture_codes = torch.randint(NUM_CODES, (3, NUM_POSITIONS), generator=torch.Generator().manual_seed(2))

    shown = []

    def run():
        shown.clear()
        return separate_codes(
            mixture_codes, priors, likelihood, sampler, seed=3, progress=lambda x: shown.append(len(x)) or x
        )

    together = run()
    assert shown == [NUM_POSITIONS] * 2  # two mixtures, then one
    asked = []
    room = 2 * memory.bytes_for(priors, 6, NUM_POSITIONS)  # `fit` uses half of it where little is free
    monkeypatch.setattr(memory, "free_bytes", lambda priors, device: asked.append(device) or room)
    with pytest.warns(UserWarning, match="caches for 23 candidates take .* in groups of 5"):
        in_groups = run()
    assert asked
    assert shown == [NUM_POSITIONS] * 3 * 5  # each mixture separately, in chunks of 5, 5, 5, 5 and 3
    torch.testing.assert_close(in_groups.scores, together.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(in_groups.weights, together.weights, atol=1e-6, rtol=0)  # 1/23 each
    assert torch.equal(in_groups.codes, together.codes)


@pytest.mark.parametrize("sampler", [BeamSearch(23), SequentialMonteCarlo(23)])
def test_candidates_that_meet_are_refused_where_they_do_not_fit(priors, sampler, monkeypatch):
    likelihood = random_world(1, NUM_CODES).likelihood
    mixture_codes = torch.zeros(1, NUM_POSITIONS, dtype=torch.long)
    room = 2 * memory.bytes_for(priors, 9, NUM_POSITIONS)
    monkeypatch.setattr(memory, "free_bytes", lambda priors, device: room)
    with pytest.raises(
        LassError, match=r"for 23 candidates of 10 codes take .* lower num_candidates to 9. Priors in half"
    ):
        separate_codes(mixture_codes, priors, likelihood, sampler)
    monkeypatch.setattr(memory, "free_bytes", lambda priors, device: 10)
    for each in (sampler, Ancestral(23)):
        with pytest.raises(
            LassError,
            match=r"for one candidate of 10 codes .* free memory of cpu, or use one with more",
        ):
            separate_codes(mixture_codes, priors, likelihood, each)


def test_several_mixtures_go_together_only_where_they_fit(priors, monkeypatch):
    def fit(room):
        monkeypatch.setattr(memory, "free_bytes", lambda priors, device: 2 * room)
        return memory.plan_chunks(priors, 8, 20, NUM_POSITIONS, torch.device("cpu"), True, 2**30)

    for at_once in (8, 4, 2, 1):
        assert fit(memory.bytes_for(priors, 20 * at_once, NUM_POSITIONS)) == (at_once, 20)
    with pytest.warns(UserWarning, match="in groups of 5"):
        assert fit(memory.bytes_for(priors, 5, NUM_POSITIONS)) == (1, 5)
    with pytest.raises(LassError, match="one candidate"):
        fit(memory.bytes_for(priors, 1, NUM_POSITIONS) - 1)


def test_free_memory_is_what_machine_and_container_leave_beside_mapped_weights(priors, tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    free = memory.free_bytes([], cpu)
    assert 1e8 < free <= psutil.virtual_memory().total
    for name, content in {"max": "5000000", "current": "2000000", "stat": "anon 7\ninactive_file 400\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_bytes([], cpu) == 3_000_400
    weights = sum(parameter.nbytes for parameter in priors[0].parameters())
    assert memory.free_bytes([priors[0], priors[0]], cpu) == 3_000_400 - weights
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes([], cpu) > 1e8


@pytest.mark.parametrize("num_sources", [2, 3])
def test_tuples_are_drawn_within_the_memory_budget(num_sources):
    """The probabilities of 96 distinct pasts × 2,048 codes would take 768 KiB, the refined pairs more."""
    num_codes, dim, num = 2048, 4, 96
    generator = torch.Generator().manual_seed(0)
    table = {
        "vectors": torch.randn(num_codes, dim, generator=generator),
        "variances": torch.rand(num_codes, generator=generator),
        "whitening": torch.eye(dim),
        "tail": torch.tensor([4.0, 3.0, 0.1]),
    }
    likelihood = AdditiveLikelihood(num_codes, table)
    rows = torch.randn(num, num_codes, generator=generator).log_softmax(1)
    log_priors = [LogPrior(rows, torch.arange(num)[None])] * num_sources
    latents, weights = torch.randn(1, dim, generator=generator), [1 / num_sources] * num_sources
    parents, uniforms = torch.arange(num)[None], torch.rand(1, num, 3 * num_sources, generator=generator).double()

    def drawn(memory_budget):
        with LargestTensor() as largest:
            posterior = TuplePosterior(
                log_priors, likelihood, latents, weights, likelihood_weight=1.0, memory_budget=memory_budget
            )
            return posterior.draw(parents, uniforms), largest

    limited, most = drawn(memory_budget=2**18)
    assert most.bytes <= 2**18
    unlimited, most = drawn(memory_budget=2**30)
    assert most.bytes > 2**19
    assert torch.equal(limited.codes, unlimited.codes)
    torch.testing.assert_close(limited.log_weights, unlimited.log_weights, atol=1e-3, rtol=0)


def test_chains_are_summed_within_the_memory_budget():
    """Tables with far fewer entries than there are codes: then the sums over all codes are the largest temporaries."""
    num_codes, num = 2048, 96
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(num_codes, (2, 64), generator=generator)
    counts = SparseCounts(num_codes, symmetric=False)
    counts.add(first, second, torch.arange(64) % 4)
    likelihood = ChainLikelihood([counts.likelihood()] * 2)
    rows = torch.randn(num, num_codes, generator=generator).log_softmax(1)
    log_priors = [LogPrior(rows, torch.arange(num)[None])] * 3

    def normalizer(memory_budget):
        posterior = ChainPosterior(log_priors, likelihood, [1], 1.0, memory_budget=memory_budget)
        highest = []
        summed = _MixturePosterior._summed

        def watched(self, log_weights, mixture):
            highest.append(len(log_weights) * num_codes * 4)
            return summed(self, log_weights, mixture)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_MixturePosterior, "_summed", watched)
            return posterior.log_normalizer(), max(highest)

    limited, most = normalizer(memory_budget=2**18)
    assert most <= 2**18
    unlimited, most = normalizer(memory_budget=2**30)
    assert most > 2**19
    torch.testing.assert_close(limited, unlimited, atol=1e-4, rtol=0)
