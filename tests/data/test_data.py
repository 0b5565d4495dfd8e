"""Tests of splits, tuples, mixing, code shards, and MNIST on files written by the tests."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_datasets import write_idx, write_tiny_mnist

from lass import LassError
from lass.data.codes import CodeSequences, CodeShard, write_codes
from lass.data.images.digits import Digits
from lass.data.images.mnist import MNIST
from lass.data.images.module import ImageDataModule, hold_out
from lass.data.mixing import mix, mix_neighbours, partial_weights
from lass.data.mixture_lists import draw_tuples, read_places, read_tuples, write_places, write_tuples
from lass.data.module import weights_of
from lass.data.sources import FixedTuples, FreshTuples, ImageSources, MirroredSources, SourceDataset, Sources
from lass.data.tuple_samplers import PaddedSampler, RandomTuples


def test_mix_is_the_mean_unless_told_otherwise():
    sources = torch.rand(3, 2, 1, 4, 4)
    # Two products and a sum of numbers below 1 in float32: results differ by at most two roundings, 1.2e-7.
    close = {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(mix(sources), (sources[:, 0] + sources[:, 1]) / 2, **close)
    torch.testing.assert_close(mix(sources, [0.2, 0.8]), 0.2 * sources[:, 0] + 0.8 * sources[:, 1], **close)
    torch.testing.assert_close(mix(sources.movedim(1, 0), dim=0), mix(sources), **close)
    with pytest.raises(ValueError, match="one weight for each of 2 sources, got 3"):
        mix(sources, [0.1, 0.2, 0.7])


@pytest.mark.parametrize(
    ("weights", "num_sources", "expected"),
    [
        (None, 3, None),
        ([0.2, 0.8], 2, [0.2, 0.8]),
        ([0.2, 0.3, 0.5], 2, [0.4, 0.6]),
        ([0.1, 0.1, 0.2], 2, [0.2, 0.2]),  # of the sum 0.4
    ],
)
def test_partial_mixtures_keep_the_ratios_and_the_sum_of_the_weights(weights, num_sources, expected):
    found = partial_weights(weights, num_sources)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-12))
    with pytest.raises(LassError, match="a weight for each of 3 sources, got 2"):
        partial_weights([0.5, 0.5], 3)


@pytest.mark.parametrize(("num_sources", "weights"), [(2, [0.5, 0.5]), (3, [0.2, 0.3, 0.5])])
def test_neighbours_are_mixed_cyclically(num_sources, weights):
    signals = torch.rand(5, 1, 4, 4)
    found = mix_neighbours(signals, num_sources, weights)
    for i in range(5):
        expected = sum(weight * signals[i - shift] for shift, weight in enumerate(weights))
        torch.testing.assert_close(found[i], expected, atol=1e-6, rtol=0)  # a few roundings of numbers below 1
    mean = sum(signals.roll(shift, 0) for shift in range(num_sources)) / num_sources
    torch.testing.assert_close(mix_neighbours(signals, num_sources), mean, atol=1e-6, rtol=0)


def drawn_slowly(num_available, num_mixtures, seed, num_sources):
    """Deal sources from a shuffled deck, with a new deck when it is empty; a repeated source becomes the next one."""
    generator, deck, tuples = np.random.default_rng(seed), [], []
    for _ in range(num_mixtures):
        chosen = []
        for _ in range(num_sources):
            deck = deck or generator.permutation(num_available).tolist()
            source = deck.pop(0)
            while source in chosen:
                source = (source + 1) % num_available
            chosen.append(source)
        tuples.append(chosen)
    return tuples


@pytest.mark.parametrize(
    ("num_available", "num_mixtures", "num_sources"),
    [
        *((100, 50, 2), (10, 6, 2), (10_000, 6_000, 2), (3, 20, 2), (2, 9, 2)),
        *((100, 33, 3), (10, 7, 3), (3, 20, 3), (4, 30, 3), (50, 40, 4), (5, 50, 4), (7, 40, 5)),
    ],
)
def test_tuples_use_every_source_before_any_again(num_available, num_mixtures, num_sources):
    for seed in range(5):
        tuples = draw_tuples(num_available, num_mixtures, seed, num_sources)
        assert tuples.tolist() == drawn_slowly(num_available, num_mixtures, seed, num_sources)
        assert all(len(set(chosen)) == num_sources for chosen in tuples.tolist())
        times = Counter(tuples.flatten().tolist())
        if num_sources * num_mixtures <= num_available:
            assert max(times.values()) == 1
        elif num_available == 10_000:
            assert set(times.values()) == {1, 2}
    assert not torch.equal(draw_tuples(100, 20, 0, num_sources), draw_tuples(100, 20, 1, num_sources))


def test_pairs_are_those_of_earlier_versions():
    """Stored results name mixtures by their position in a drawn list, so the lists of two sources never change."""
    assert draw_tuples(10, 6, 0).tolist() == [[4, 6], [2, 7], [3, 5], [9, 0], [8, 1], [2, 9]]
    assert draw_tuples(3, 7, 1).tolist() == [[0, 1], [2, 0], [0, 1], [1, 0], [2, 0], [0, 1], [2, 1]]
    assert draw_tuples(2, 4, 0).tolist() == [[0, 1], [0, 1], [0, 1], [1, 0]]
    assert draw_tuples(5, 4, 3).tolist() == [[4, 2], [1, 3], [0, 3], [0, 2]]
    digest = hashlib.sha256()
    numbers_available, numbers_of_mixtures = [2, 3, 4, 5, 7, 10, 33, 100, 397, 1000], [1, 2, 3, 5, 8, 50, 198, 600]
    for arguments in itertools.product(numbers_available, numbers_of_mixtures, range(12)):
        digest.update(draw_tuples(*arguments).numpy().astype("<i8").tobytes())
    digest.update(draw_tuples(10_000, 6_000, 0).numpy().astype("<i8").tobytes())
    assert digest.hexdigest() == "2bc6ef4694889a7a682b1f2edbc5025fd97e7ebaa9e9eaaf8e4afc5ad4b87550"


def test_mixtures_of_more_sources_than_there_are_are_refused():
    with pytest.raises(LassError, match="Mixtures of 3 sources need at least as many to draw from, got 2"):
        draw_tuples(2, 1, 0, num_sources=3)


@pytest.mark.parametrize("num_sources", [2, 3, 4])
def test_tuples_survive_their_file(tmp_path, num_sources):
    tuples, path = draw_tuples(20, 8, 0, num_sources), tmp_path / "tuples.csv"
    write_tuples(path, tuples)
    header, first, *_ = path.read_text().splitlines()
    assert header == "mixture,source_1,source_2,source_3,source_4"[: 7 + 9 * num_sources]
    assert first == ",".join(map(str, [0, *tuples[0].tolist()]))
    assert torch.equal(read_tuples(path, 20, num_sources), tuples)
    with pytest.raises(LassError, match=r"outside 0…9"):
        read_tuples(path, 10, num_sources)
    with pytest.raises(LassError, match="no list of test mixtures"):
        read_tuples(tmp_path / "other.csv", 10, num_sources)
    said = (
        f"tuples.csv lists mixtures of {num_sources} sources, but num_sources is 5: .* --data.num_sources={num_sources}"
    )
    with pytest.raises(LassError, match=said):
        read_tuples(path, 20, 5)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(LassError, match="no list of mixtures with the columns"):
        read_tuples(path, 10, num_sources)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("mixture,source_1,source_2\n0,1,2\n".encode("utf-16"), "is not in UTF-8"),
        ("mixture,source_1,source_2\n0,1,2\n".encode("utf-16-le"), "holds NUL bytes"),
        (b"mixture,source_1,source_2\n0,1,\xe9\n", "is not in UTF-8"),
        (b"mixture,source_1,source_2\n0,1,\0\n", "holds NUL bytes"),
        (b"", "its first line is ''"),
        (b"mixture;source_1;source_2\n0;1;2\n", "its first line is 'mixture;source_1;source_2'"),
        (b"mixture,first,second\n0,1,2\n", "columns mixture, source_1, source_2: its first line is 'mixture,first,"),
        (b"mixture,source_1\n0,1\n", "its first line is 'mixture,source_1'"),
        (b"mixture,source_2,source_1\n0,1,2\n", "its first line is 'mixture,source_2,source_1'"),
        (b"mixture,source_1,source_2\n", "it has no mixtures"),
        (b"mixture,source_1,source_2\n0,1,2\n1,2\n", "line 3 has 2 columns"),
        (b"mixture,source_1,source_2\n0,1,2,3\n", "line 2 has 4 columns"),
        (b"mixture,source_1,source_2\n0,1,1.5\n", "invalid literal for int"),
        (b"mixture,source_1,source_2\n0,1,18446744073709551616\n", "outside 0…9"),
        (b"mixture,source_1,source_2\n0,-1,2\n", "outside 0…9"),
        (b"mixture,source_1,source_2\n0,1," + b"9" * 5000 + b"\n", "columns"),
        (b"mixture,source_1,source_2\n0,1," + b"9" * 200_000 + b"\n", "field larger than field limit"),
    ],
)
def test_lists_of_mixtures_that_are_none_are_one_sentence(tmp_path, content, reason):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(LassError, match=reason) as error:
        read_tuples(tmp_path / "list.csv", 10, 2)
    assert str(error.value).startswith(str(tmp_path / "list.csv"))
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_lists_of_mixtures_may_have_been_through_a_spreadsheet(tmp_path):
    """Spreadsheets add a byte-order mark, CRLF line ends and empty lines."""
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfmixture,source_1,source_2\r\n0,1,2\r\n\r\n1,3,4\r\n")
    assert read_tuples(tmp_path / "list.csv", 5, 2).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("start", ["nan", "inf", "-1", "1e999"])
def test_songs_start_at_a_time(tmp_path, start):
    (tmp_path / "places.csv").write_text(f"mixture,song,start_seconds\n0,Track00001,{start}\n")
    with pytest.raises(LassError, match=r"names Track00001 at .* s: expected a start of 0 s or more"):
        read_places(tmp_path / "places.csv")
    write_places(tmp_path / "places.csv", [("Träck, 1", 1.5)])
    assert read_places(tmp_path / "places.csv") == [("Träck, 1", 1.5)]


@pytest.mark.parametrize(
    ("name", "num_images", "num_mixtures", "num_sources"),
    [
        ("digits/test_mixtures", 397, 198, 2),
        ("mnist/test_mixtures", 10_000, 6_000, 2),
        ("mnist/test_mixtures_three", 10_000, 6_000, 3),
        ("mnist/test_mixtures_four", 10_000, 6_000, 4),
    ],
)
def test_stored_test_mixtures_are_the_seeded_ones(repository, name, num_images, num_mixtures, num_sources):
    stored = read_tuples(repository / "experiments" / f"{name}.csv", num_images, num_sources)
    assert torch.equal(stored, draw_tuples(num_images, num_mixtures, 0, num_sources))


def test_digits_are_split_without_overlap():
    data = Digits(num_validation=200)
    parts = {name: data.part(name) for name in ("train", "validation", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 1200, "validation": 200, "test": 397}
    images = torch.cat([part.images for part in parts.values()]).flatten(1)
    assert parts["train"].images.shape[1:] == (1, 16, 16)
    from sklearn.datasets import load_digits

    assert len(images.unique(dim=0)) == len(np.unique(load_digits().images.reshape(1797, -1), axis=0))
    signals = parts["train"].__getitems__([0, 5]).signals
    assert signals.min() >= 0
    assert 0.9 < signals.max() <= 1


@pytest.mark.parametrize("num_sources", [2, 3])
def test_training_tuples_are_fresh_every_epoch_and_use_every_source_once(num_sources):
    data = Digits(batch_size=16, num_validation=200, tuples=True, num_sources=num_sources)
    loader, epochs = data.train_dataloader(), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # as Lightning does
        epochs.append(torch.cat([batch.signals for batch in loader]))
    for signals in epochs:
        assert signals.shape == (1200 // num_sources, num_sources, 1, 16, 16)
        once = (signals * 255).round().long().flatten(0, 1).flatten(1).sum(1).sort().values
        assert torch.equal(once, data.part("train").images.long().flatten(1).sum(1).sort().values)
    assert not torch.equal(epochs[0][:, 0].sort(0).values, epochs[1][:, 0].sort(0).values)


@pytest.mark.parametrize(("num_sources", "batches"), [(2, [300, 300]), (3, [300, 100]), (7, [171])])
def test_left_over_sources_make_no_tuple(num_sources, batches):
    size = max(batches)
    data = Digits(batch_size=size, num_validation=199, tuples=True, num_sources=num_sources)  # 1,201 sources
    assert [len(batch.signals) for batch in data.train_dataloader()] == batches
    with pytest.raises(LassError, match=rf"one batch of 601 tuples of {num_sources} images needs: make batch_size"):
        Digits(batch_size=601, num_validation=199, tuples=True, num_sources=num_sources).train_dataloader()


def test_tuples_are_read_in_their_order_with_labels():
    images, labels = torch.randint(256, (9, 1, 4, 4), dtype=torch.uint8), torch.arange(9) % 4
    for sources in (ImageSources(images, labels), Lazy(images, labels)):
        tuples = torch.tensor([[8, 0, 3], [1, 1, 7], [2, 4, 6]])
        fixed, fresh = FixedTuples(sources, tuples), FreshTuples(sources, 3)
        assert (len(fixed), len(fresh)) == (3, 3)
        batches = {(2, 0): fixed.__getitems__([2, None, 0]), (-1, -1): fresh.__getitems__([(2, 4, 6), None, (8, 0, 3)])}
        for indices, batch in batches.items():
            for row, positions in enumerate(([2, 4, 6], [8, 0, 3])):
                for column, position in enumerate(positions):
                    assert torch.equal(batch.signals[row, column], images[position].float() / 255)
                    assert batch.labels[row, column] == labels[position]
            assert tuple(batch.indices.tolist()) == indices
        for empty in (fixed.__getitems__([None]), fresh.__getitems__([None, None])):
            assert [field.shape for field in empty] == [(0, 3, 1, 4, 4), (0, 3), (0,)]
            assert [field.dtype for field in empty] == [torch.float32, torch.int64, torch.int64]


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("num_sources", [11, 12, 13, 4])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_the_tuples_of_one_process_exactly(num_sources, num_ranks, size):
    def shares(make):
        ranks = [make(num_ranks, rank) for rank in range(num_ranks)]
        for sampler in ranks:
            sampler.set_epoch(3)
        shares = [list(sampler) for sampler in ranks]
        assert {len(share) for share in shares} == {len(ranks[0])}
        return sorted(item for share in shares for item in share if item is not None)

    alone = RandomTuples(num_sources, size, seed=5)
    alone.set_epoch(3)
    assert shares(lambda *ranks: RandomTuples(num_sources, size, *ranks, seed=5)) == sorted(alone)
    assert len({source for chosen in alone for source in chosen}) == num_sources // size * size
    assert shares(lambda *ranks: PaddedSampler(num_sources, *ranks)) == list(range(num_sources))


@pytest.mark.parametrize("num_sources", [2, 3])
def test_validation_and_test_mixtures_are_fixed(num_sources):
    data = Digits(batch_size=7, num_validation=200, tuples=True, num_mixtures=20, num_sources=num_sources)
    for loader in (data.val_dataloader, data.predict_dataloader):
        first, second = (torch.cat([batch.signals for batch in loader()]) for _ in range(2))
        assert torch.equal(first, second)
        assert first.shape[1] == num_sources
    assert len(data.val_dataloader().dataset) == 200 // num_sources
    batches = list(data.predict_dataloader())
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(20))
    assert data.predict_dataloader().dataset.sources is data.part("test")
    validation = Digits(num_validation=200, predict_split="validation")
    assert validation.predict_dataloader().dataset.sources is validation.part("validation")


@pytest.mark.parametrize(
    ("settings", "message"), [({"num_validation": 1400}, "num_validation"), ({"num_validation": 0}, "num_validation")]
)
def test_senseless_splits_are_refused(settings, message):
    with pytest.raises(LassError, match=message):
        Digits(**settings).part("train")


@pytest.mark.parametrize(("num_images", "expected"), [(60_000, 5000), (1400, 140), (5, 2)])
def test_a_tenth_is_held_out_unless_told_otherwise(num_images, expected):
    held_out, kept = hold_out(num_images, None, 0, "num_validation")
    assert len(held_out) == expected
    assert torch.equal(torch.cat([held_out, kept]).sort().values, torch.arange(num_images))


def test_more_mixtures_than_there_are_is_refused(repository):
    stored = str(repository / "experiments/digits/test_mixtures.csv")
    with pytest.raises(LassError, match=r"There are 198 mixtures, so num_mixtures must be 1…198, not 199"):
        Digits(mixtures=stored, num_mixtures=199, num_validation=200).predict_dataloader()


def test_stored_mixtures_must_have_as_many_sources_as_the_data(repository, tmp_path):
    stored = str(repository / "experiments/digits/test_mixtures.csv")
    with pytest.raises(LassError, match=r"lists mixtures of 2 sources, but num_sources is 3: .*--data\.num_sources=2"):
        Digits(mixtures=stored, num_sources=3, num_validation=200).predict_dataloader()
    write_tuples(tmp_path / "three.csv", torch.tensor([[5, 396, 0], [1, 2, 3]]))
    data = Digits(mixtures=str(tmp_path / "three.csv"), num_sources=3, num_validation=200)
    (batch,) = data.predict_dataloader()
    for row, positions in enumerate(([5, 396, 0], [1, 2, 3])):
        for column, position in enumerate(positions):
            assert torch.equal(batch.signals[row, column], data.part("test")[position].signals)


@pytest.mark.parametrize("num_sources", [1, 0, 65, True])
def test_numbers_of_sources_outside_the_limits_are_refused(num_sources):
    with pytest.raises(LassError, match="num_sources must be an integer, at least 2, at most 64"):
        Digits(num_sources=num_sources)


@pytest.mark.parametrize(
    ("weights", "num_sources", "message"),
    [
        ([0.5], 2, "weights must be 2 numbers, one for each source of a mixture, not 1"),
        ([0.5, 0.5], 3, "weights must be 3 numbers, one for each source of a mixture, not 2"),
        ([0.5, 0.0], 2, "each of weights must be a number, above 0, not 0.0"),
        ([0.5, -0.5], 2, "each of weights must be a number, above 0, not -0.5"),
        ([0.5, float("nan")], 2, "each of weights must be a number, above 0, not nan"),
        ([0.5, float("inf")], 2, "each of weights must be a number, above 0, not inf"),
        ([0.5, 0.51], 2, "weights must have a sum of at most 1, .*not 1.01: divide them by their sum"),
        ([1.0, 1.0, 1.0], 3, "weights must have a sum of at most 1, .*not 3: divide"),
    ],
)
def test_senseless_weights_are_refused(weights, num_sources, message):
    with pytest.raises(LassError, match=message):
        Digits(weights=weights, num_sources=num_sources)


def test_weights_are_those_of_the_data_module():
    assert weights_of(Digits()) is None
    assert weights_of(object()) is None
    assert weights_of(Digits(weights=[0.7, 0.3])) == [0.7, 0.3]
    # Decimal fractions with the sum 1 are accepted, although the floats that represent them are rounded.
    for weights in ([0.1] * 10, [0.7, 0.2, 0.1], [1 / 3] * 3, [1 / 49] * 49, [0.3, 0.3, 0.4]):
        assert weights_of(Digits(weights=weights, num_sources=len(weights))) == weights


def test_mnist_is_read_from_its_official_files(tmp_path, monkeypatch):
    write_tiny_mnist(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    data = MNIST(num_validation=10)
    data.prepare_data()  # no download
    assert [len(data.part(name)) for name in ("train", "validation", "test")] == [30, 10, 12]
    raw = (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    expected = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(12, 1, 28, 28)
    assert torch.equal(data.part("test").images, expected)
    assert torch.equal(data.part("test")[3].signals, expected[3].float() / 255)  # exact: one rounded division


def test_missing_and_truncated_mnist_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    with pytest.raises(LassError, match=r"MNIST could not be read from .*DATA_ROOT"):
        MNIST().setup("fit")
    write_tiny_mnist(tmp_path)
    images = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(LassError, match="MNIST could not be read"):
        MNIST().setup("fit")
    for content in (b"", b"\0\0\1\3", b"\0\0\x08\3" + b"\xff" * 12, b"\0\0\x08\xff"):
        images.write_bytes(content)
        with pytest.raises(LassError, match="MNIST could not be read") as error:
            MNIST().setup("fit")
        assert "\n" not in str(error.value)


def test_mnist_with_other_labels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_mnist(tmp_path)
    write_idx(tmp_path / "MNIST/raw", "train-labels-idx1-ubyte", np.zeros(39))
    with pytest.raises(LassError, match=r"MNIST could not be read .*40 train images, but 39 labels"):
        MNIST().setup("fit")


class Stripes(ImageDataModule):
    """User-defined dataset with settings that its base class does not have."""

    def __init__(self, brightness=100, read_lazily=False, **kwargs):
        super().__init__(**kwargs)
        self.brightness, self.read_lazily = brightness, read_lazily

    def read(self, official_split):
        images = torch.full((20, 1, 4, 4), self.brightness, dtype=torch.uint8)
        images[:, :, 0] = torch.arange(20, dtype=torch.uint8).view(20, 1, 1)
        return (Lazy if self.read_lazily else ImageSources)(images, torch.zeros(20, dtype=torch.long))


class Lazy(SourceDataset):
    """Dataset with the default `fingerprint` of `SourceDataset`."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        return Sources(self.images[indices].float() / 255, self.labels[indices])

    def subset(self, positions):
        return Lazy(self.images[positions], self.labels[positions])


@pytest.mark.parametrize("read_lazily", [False, True])
def test_the_identity_of_a_part_is_that_of_its_images(read_lazily):
    """The identity names the cache of codes: it changes with settings that change the images, and only with these."""

    def identity(part="train", **settings):
        return Stripes(read_lazily=read_lazily, **settings).identity(part)

    assert identity() == identity()
    handling = {"batch_size": 3, "tuples": True, "predict_split": "validation", "num_mixtures": 2, "num_workers": 1}
    handling |= {"num_sources": 3, "weights": [0.2, 0.2, 0.6]}
    assert identity(**handling, mixtures="list.csv") == identity()
    different = [{}, {"brightness": 101}, {"split_seed": 1}, {"num_validation": 5}]
    identities = [identity(part, **settings) for settings in different for part in ("train", "validation")]
    assert len(set(identities)) == len(identities)
    assert identity("test", brightness=1) != identity("test")


def test_labels_are_part_of_the_identity():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    for kind in (ImageSources, MirroredSources, Lazy):
        fingerprints = {kind(images, torch.tensor(labels)).fingerprint() for labels in ([0, 1], [1, 0])}
        assert len(fingerprints) == 2


def test_code_shards_give_back_what_was_written(tmp_path):
    codes, labels = torch.randint(300, (50, 9)), torch.randint(10, (50,))
    batches = [CodeSequences(c, y) for c, y in zip(codes.split(7), labels.split(7), strict=True)]
    write_codes(tmp_path / "codes.npy", batches)
    shard = CodeShard(tmp_path / "codes.npy")
    assert len(shard) == 50
    batch = shard.__getitems__([3, 49, 0])
    assert torch.equal(batch.codes, codes[[3, 49, 0]])
    assert torch.equal(batch.labels, labels[[3, 49, 0]])
    whole = (tmp_path / "codes.npy").read_bytes()
    for damaged in (whole[:100], whole[:-1], whole.replace(b"<i4", b"<f4"), whole.replace(b"(50, 10)", b"(500,)  ")):
        (tmp_path / "codes.npy").write_bytes(damaged)
        with pytest.raises(LassError, match=r"holds no codes .*: delete it, and it is made again"):
            CodeShard(tmp_path / "codes.npy")
