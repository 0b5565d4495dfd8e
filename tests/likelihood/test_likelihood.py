"""`SparseCounts` against counting in a dictionary, and `SparseLikelihood` against its definition."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lass import LassError, SparseCounts, SparseLikelihood
from lass.likelihood import Likelihood, load_likelihood
from lass.likelihood.sorted_runs import DeviceRun, HostRun

K = 5
TRIPLES = st.lists(st.tuples(*[st.integers(0, K - 1)] * 3), max_size=60)


def count(triples, symmetric=True, chunks=1, device="cpu") -> SparseCounts:
    counts = SparseCounts(K, symmetric, device)
    for chunk in range(chunks):
        part = torch.tensor(triples[chunk::chunks], dtype=torch.long).reshape(-1, 3)
        counts.add(*part.T)
    return counts


def reference_tensor(triples, symmetric=True) -> Counter:
    """Return F of the paper, computed with one increment per triple."""
    tensor = Counter()
    for first, second, mixture in triples:
        tensor[first, second, mixture] += 1
        if symmetric:
            tensor[second, first, mixture] += 1
    return tensor


def as_counter(counts: SparseCounts) -> Counter:
    *coordinates, values = (tensor.tolist() for tensor in counts.triples())
    return Counter(dict(zip(zip(*coordinates, strict=True), values, strict=True)))


@given(TRIPLES, st.booleans(), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_counting_matches_a_dictionary(triples, symmetric, chunks):
    counts = count(triples, symmetric, chunks)
    expected = reference_tensor(triples, symmetric)
    assert as_counter(counts) == expected
    assert counts.num_nonzero == len(expected)
    by_mixture = Counter(mixture for _, _, mixture in expected)
    assert counts.nonzeros_per_mixture_code.tolist() == [by_mixture[code] for code in range(counts.num_codes)]
    assert counts.density == len(expected) / K**3
    assert counts.num_pairs_seen == len({(first, second) for first, second, _ in expected})
    assert counts.num_triples == len(triples)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_all_devices_count_the_same(symmetric, smoothing, device, monkeypatch):
    """Counts are exact after merging several runs; the likelihood is equal up to float32 rounding."""
    monkeypatch.setattr("lass.likelihood.counts.BUFFER", 64)
    monkeypatch.setattr("lass.likelihood.counts.PART", 32)
    triples = torch.randint(K, (300, 3), generator=torch.Generator().manual_seed(0)).tolist()
    codebook = torch.randn(K, 3, generator=torch.Generator().manual_seed(1))
    counts = count(triples[:200], symmetric, chunks=3, device=device)
    counts.merge(count(triples[200:], symmetric))  # from the CPU
    assert {x.device.type for x in counts.state_dict().values()} == {device}
    assert as_counter(counts) == as_counter(counts.to("cpu")) == reference_tensor(triples, symmetric)
    expected = count(triples, symmetric)
    for name in ("num_nonzero", "density", "num_pairs_seen", "num_triples"):
        assert getattr(counts, name) == getattr(expected, name)
    assert counts.nonzeros_per_mixture_code.tolist() == expected.nonzeros_per_mixture_code.tolist()
    likelihood, expected = (each.likelihood(smoothing, codebook) for each in (counts, expected))
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(likelihood.state_dict()[name].cpu(), tensor, atol=2**-20, rtol=2**-22)
    asked = torch.tensor(list(itertools.product(range(K), repeat=3))).T
    found = likelihood.log_likelihood(*asked.to(device)).cpu()
    torch.testing.assert_close(found, expected.log_likelihood(*asked), atol=2**-20, rtol=2**-22)
    assert torch.equal(likelihood.contains(*asked.to(device)).cpu(), expected.contains(*asked))
    assert likelihood.to("cpu").at([0])[0].first.device.type == "cpu"


def test_single_precision_normalises_to_nearly_the_same(monkeypatch):
    """Normalisation as on devices without float64, with counts of more digits than float32 represents."""
    counts = SparseCounts(K)
    keys = torch.arange(0, K**3, 3)
    large = torch.randint(2**26, 2**30, keys.shape, generator=torch.Generator().manual_seed(0))
    counts.load_state_dict({"keys": keys[(keys // K % K) <= keys % K], "counts": large[(keys // K % K) <= keys % K]})
    double = counts.likelihood(0.5).state_dict()
    monkeypatch.setattr("lass.devices.numerics.WITHOUT_FLOAT64", {"cpu"})
    single = counts.likelihood(0.5).state_dict()
    for name in ("log_likelihood", "log_unseen"):
        torch.testing.assert_close(single[name], double[name], atol=2**-21, rtol=2**-23)


def test_repeated_triples_all_count():
    counts = SparseCounts(K, symmetric=False)
    counts.add(*torch.tensor([[1, 2, 3]] * 7 + [[2, 1, 3]]).T)
    assert as_counter(counts) == {(1, 2, 3): 7, (2, 1, 3): 1}


def test_any_shape_is_counted():
    codes = torch.randint(K, (3, 4, 2, 6), generator=torch.Generator().manual_seed(0))
    counts = SparseCounts(K)
    counts.add(*codes)
    assert as_counter(counts) == reference_tensor(codes.flatten(1).T.tolist())


@given(TRIPLES, TRIPLES, TRIPLES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_merging_is_exact_and_order_does_not_matter(a, b, c, symmetric):
    left = count(a, symmetric)
    left.merge(count(b, symmetric))
    left.merge(count(c, symmetric))
    inner = count(c, symmetric)
    inner.merge(count(b, symmetric))
    inner.merge(count(a, symmetric))
    assert as_counter(left) == as_counter(inner) == reference_tensor(a + b + c, symmetric)


def test_merging_with_itself_doubles():
    counts = SparseCounts(K, symmetric=False)
    for size in (20, 8, 3):  # several runs of different length
        counts.add(*torch.randint(K, (3, size), generator=torch.Generator().manual_seed(size)))
    before = as_counter(counts)
    counts.merge(counts)
    assert as_counter(counts) == {key: 2 * value for key, value in before.items()}


@given(TRIPLES.filter(bool), st.booleans())
@settings(max_examples=60, deadline=None)
def test_likelihood_is_the_normalised_count(triples, symmetric):
    tensor = reference_tensor(triples, symmetric)
    likelihood = count(triples, symmetric).likelihood()
    assert isinstance(likelihood, Likelihood)
    counted = {mixture for _, _, mixture in tensor}
    for mixture in range(K):
        pairs = likelihood.pairs(mixture)
        found = dict(
            zip(
                zip(pairs.first.tolist(), pairs.second.tolist(), strict=True),
                pairs.log_likelihood.exp(),
                strict=True,
            )
        )
        if mixture not in counted:
            assert found == {(mixture, mixture): 1.0}
            continue
        for (first, second), value in found.items():
            total = sum(tensor[first, second, m] for m in range(K))
            assert value.item() == pytest.approx(tensor[first, second, mixture] / total, rel=1e-5)
        assert set(found) == {(f, s) for f, s, m in tensor if m == mixture}


@given(TRIPLES.filter(bool))
@settings(max_examples=60, deadline=None)
def test_look_up_agrees_with_the_pairs(triples):
    likelihood = count(triples).likelihood()
    first, second, mixture = torch.tensor(list(itertools.product(range(K), repeat=3))).T
    looked_up = likelihood.log_likelihood(first, second, mixture)
    expected = torch.full((K, K, K), -torch.inf)
    for code in range(K):
        pairs = likelihood.pairs(code)
        expected[pairs.first, pairs.second, code] = pairs.log_likelihood
    assert torch.equal(looked_up, expected.flatten())
    counted = reference_tensor(triples)
    contained = likelihood.contains(first, second, mixture).tolist()
    keys = zip(first.tolist(), second.tolist(), mixture.tolist(), strict=True)
    assert contained == [key in counted for key in keys]


def test_likelihood_sums_to_one_over_the_mixture_codes():
    generator = torch.Generator().manual_seed(0)
    counts = SparseCounts(K)
    counts.add(*torch.randint(K, (3, 4000), generator=generator))
    first, second, mixture = torch.tensor(list(itertools.product(range(K), repeat=3))).T
    total = counts.likelihood().log_likelihood(first, second, mixture).exp().view(K * K, K).sum(1)
    torch.testing.assert_close(total, torch.ones(K * K), atol=1e-5, rtol=0)  # five float32 terms


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("smoothing", [0.5, 2.0])
def test_smoothing_is_additive(symmetric, smoothing):
    """(F + α) / (Σ F + α K) with F from the dictionary; uncounted triples included, so that all values sum to 1."""
    triples = torch.randint(K, (40, 3), generator=torch.Generator().manual_seed(0)).tolist()
    tensor = reference_tensor(triples, symmetric)
    assert {mixture for _, _, mixture in tensor} == set(range(K))  # no code needs substitute pairs
    likelihood = count(triples, symmetric).likelihood(smoothing=smoothing)
    first, second, mixture = torch.tensor(list(itertools.product(range(K), repeat=3))).T
    values = likelihood.log_likelihood(first, second, mixture).exp()
    for a, b, m, value in zip(first.tolist(), second.tolist(), mixture.tolist(), values.tolist(), strict=True):
        total = sum(tensor[a, b, other] for other in range(K))
        assert value == pytest.approx((tensor[a, b, m] + smoothing) / (total + smoothing * K), rel=1e-5)
    torch.testing.assert_close(values.view(K * K, K).sum(1), torch.ones(K * K), atol=1e-5, rtol=0)
    plain = count(triples, symmetric).likelihood()
    for code in range(K):  # smoothing does not add pairs
        assert torch.equal(likelihood.pairs(code).first, plain.pairs(code).first)


def test_the_nearest_counted_code_stands_in_for_one_that_never_was():
    counts = count([(0, 1, 0), (1, 1, 0), (2, 3, 3), (2, 2, 3)])  # mixture codes 1, 2 and 4 never occur
    codebook = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 1.0], [9.0, 0.0], [4.0, 0.0]])
    likelihood = counts.likelihood(codebook=codebook)
    for code, stand_in in {0: 0, 1: 0, 2: 3, 3: 3, 4: 0}.items():
        for mine, theirs in zip(likelihood.pairs(code), likelihood.pairs(stand_in), strict=True):
            assert mine.data_ptr() == theirs.data_ptr()  # a view, not a copy
        assert likelihood.is_counted(code) == (code == stand_in)
        pair = torch.tensor([0, 2]), torch.tensor([1, 3])
        looked_up = likelihood.log_likelihood(*pair, torch.tensor([code] * 2))
        assert torch.equal(looked_up, likelihood.log_likelihood(*pair, torch.tensor([stand_in] * 2)))
        assert not likelihood.contains(*pair, torch.tensor([code] * 2)).any() or code == stand_in
    with pytest.raises(LassError, match=r"codebook has 4 vectors, but 5 codes were counted"):
        counts.likelihood(codebook=codebook[:4])
    with pytest.raises(LassError, match="pseudo-count, must be a number, at least 0, not -1"):
        counts.likelihood(smoothing=-1.0)


def test_a_saved_likelihood_is_mapped_with_its_index(tmp_path):
    counts = SparseCounts(256)
    counts.add(*torch.randint(256, (3, 500_000), generator=torch.Generator().manual_seed(0)))
    path = tmp_path / "likelihood.safetensors"
    likelihood = counts.likelihood(smoothing=0.1, codebook=torch.randn(256, 3))
    likelihood.save(path)
    again = SparseLikelihood.load(path)
    table = again.state_dict()
    assert set(table) == {"first", "second", "log_likelihood", "starts", "nearest_counted", "seen_pairs", "log_unseen"}
    for name, tensor in likelihood.state_dict().items():
        assert torch.equal(tensor, table[name])
    if Path("/proc/self/maps").exists():  # Linux
        assert str(path) in Path("/proc/self/maps").read_text()  # the table is mapped, not copied
    assert load_likelihood(path).num_codes == 256
    counts.save(tmp_path / "counts.safetensors")
    assert torch.equal(load_likelihood(tmp_path / "counts.safetensors", 0.1).state_dict()["first"], table["first"])
    with pytest.raises(LassError, match="Smoothing needs counts"):
        load_likelihood(path, smoothing=0.1)


@given(st.lists(TRIPLES, max_size=12), st.booleans(), st.sampled_from([1, 2]))
@settings(max_examples=60, deadline=None)
def test_counting_in_tiny_buffers_and_blocks_matches_a_dictionary(batches, symmetric, num_threads):
    """Sizes are so small that several runs exist, are merged in several blocks, and grow in place."""
    small = {
        "lass.likelihood.counts.BUFFER": 8,
        "lass.likelihood.counts.PART": 3,
        "lass.likelihood.sorted_runs.BLOCK": 4,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small.items():
            patch.setattr(name, value)
        patch.setattr("torch.get_num_threads", lambda: num_threads)
        counts = SparseCounts(K, symmetric)
        for triples in batches:
            counts.add(*torch.tensor(triples, dtype=torch.long).reshape(-1, 3).T)
        assert as_counter(counts) == reference_tensor([t for triples in batches for t in triples], symmetric)


def test_what_was_given_out_does_not_change_when_counting_goes_on():
    counts = count([(0, 1, 2), (3, 3, 3)])
    before = counts.state_dict()
    kept = {name: tensor.clone() for name, tensor in before.items()}
    for seed in range(5):
        counts.add(*torch.randint(K, (3, 50), generator=torch.Generator().manual_seed(seed)))
        counts.compact()
    for name, tensor in before.items():
        assert torch.equal(tensor, kept[name])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=80), st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_runs_merge_like_dictionaries_on_any_device(entries, cut):
    """Both merges, for the CPU and for accelerators; the latter also runs on the CPU."""
    parts = [dict(entries[:cut]), dict(entries[cut:])]
    expected = sorted((Counter(parts[0]) + Counter(parts[1])).items())
    for kind in (HostRun, DeviceRun):
        runs = [
            kind(*torch.tensor(sorted(part.items()), dtype=torch.long).reshape(-1, 2).T.contiguous()) for part in parts
        ]
        runs[0].absorb(runs[1])
        assert list(zip(*(tensor.tolist() for tensor in runs[0].tensors()), strict=True)) == expected
        assert len(runs[0]) == len(expected)


def test_pairs_are_views():
    likelihood = count([(0, 1, 2), (1, 1, 2), (3, 3, 3)]).likelihood()
    again = likelihood.pairs(2), likelihood.pairs(2)
    assert again[0].first.data_ptr() == again[1].first.data_ptr()
    assert again[0].log_likelihood.data_ptr() == again[1].log_likelihood.data_ptr()


def test_large_codebooks_do_not_overflow():
    num_codes = 2**21 - 1
    highest = num_codes - 1
    counts = SparseCounts(num_codes, symmetric=False)
    counts.add(torch.tensor([highest, 0]), torch.tensor([highest - 1, 0]), torch.tensor([highest, 0]))
    assert as_counter(counts) == {(highest, highest - 1, highest): 1, (0, 0, 0): 1}


@pytest.mark.parametrize("symmetric", [True, False])
def test_counts_survive_saving_and_do_not_depend_on_how_they_came_together(tmp_path, symmetric):
    triples = torch.randint(K, (200, 3), generator=torch.Generator().manual_seed(1)).tolist()
    one, other = count(triples, symmetric), count(triples[::-1], symmetric, chunks=9)
    one.save(tmp_path / "one.safetensors")
    other.save(tmp_path / "other.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    loaded = SparseCounts.load(tmp_path / "one.safetensors")
    assert as_counter(loaded) == reference_tensor(triples, symmetric)
    assert (loaded.symmetric, loaded.num_codes) == (symmetric, K)
    likelihood = loaded.likelihood()
    likelihood.save(tmp_path / "likelihood.safetensors")
    again = SparseLikelihood.load(tmp_path / "likelihood.safetensors")
    for code in range(K):
        for mine, theirs in zip(likelihood.pairs(code), again.pairs(code), strict=True):
            assert torch.equal(mine, theirs)


def test_bad_input_is_refused_and_nothing_is_counted():
    counts = SparseCounts(K)
    zeros = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"codes must be in 0…4, got 0…5"):
        counts.add(zeros, zeros, torch.tensor([1, 5]))
    with pytest.raises(ValueError, match=r"codes must be in 0…4, got -1…0"):
        counts.add(zeros - 1, zeros, zeros)
    with pytest.raises(ValueError, match="one shape"):
        counts.add(zeros, zeros, zeros[:1])
    assert counts.num_triples == 0
    with pytest.raises(LassError, match="Nothing was counted"):
        counts.likelihood()
    with pytest.raises(LassError, match="Mixture codes must be in"):
        count([(0, 0, 0)]).likelihood().pairs(K)
    with pytest.raises(ValueError, match="num_codes must be an integer, at least 1, at most 2097151"):
        SparseCounts(2**21)
    with pytest.raises(ValueError, match="do not commute"):
        SparseCounts(K, symmetric=True, weights=[0.3, 0.7])


def test_counts_of_other_things_are_not_merged():
    counts = SparseCounts(K, codec_fingerprint="a")
    for other, name in [
        (SparseCounts(K + 1, codec_fingerprint="a"), "num_codes"),
        (SparseCounts(K, symmetric=False, codec_fingerprint="a"), "symmetric"),
        (SparseCounts(K, codec_fingerprint="b"), "codec_fingerprint"),
        (SparseCounts(K, weights=[0.5, 0.5], codec_fingerprint="a"), "weights"),
    ]:
        with pytest.raises(LassError, match=name):
            counts.merge(other)


def test_damaged_and_foreign_files_are_told_apart(tmp_path):
    path = tmp_path / "runs" / "mnist" / "likelihood" / "counts.safetensors"
    with pytest.raises(LassError, match="make count DATASET=mnist"):
        SparseCounts.load(path)
    count([(0, 1, 2)] * 3).save(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(LassError, match="damaged"):
        SparseCounts.load(path)
    path.write_bytes(b"")
    with pytest.raises(LassError, match="damaged"):
        SparseCounts.load(path)
    count([(0, 1, 2)]).likelihood().save(path)
    with pytest.raises(LassError, match="holds no counts"):
        SparseCounts.load(path)
