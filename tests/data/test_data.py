"""Tests of splits, pairs, mixing, code shards, and MNIST on files written by the tests."""

from __future__ import annotations

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
from lass.data.mixing import mix
from lass.data.mixture_lists import draw_pairs, read_pairs, read_places, write_pairs, write_places
from lass.data.pair_samplers import PaddedSampler, RandomPairing
from lass.data.sources import ImageSources, MirroredSources, SourceDataset, Sources


def test_mix_is_the_mean_unless_told_otherwise():
    sources = torch.rand(3, 2, 1, 4, 4)
    # Two products and a sum of numbers below 1 in float32: results differ by at most two roundings, 1.2e-7.
    close = {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(mix(sources), (sources[:, 0] + sources[:, 1]) / 2, **close)
    torch.testing.assert_close(mix(sources, [0.2, 0.8]), 0.2 * sources[:, 0] + 0.8 * sources[:, 1], **close)
    torch.testing.assert_close(mix(sources.movedim(1, 0), dim=0), mix(sources), **close)
    with pytest.raises(ValueError, match="one weight for each of 2 sources, got 3"):
        mix(sources, [0.1, 0.2, 0.7])


@pytest.mark.parametrize(("num_sources", "num_mixtures"), [(100, 50), (10, 6), (10_000, 6_000), (3, 20), (2, 9)])
def test_pairs_use_every_source_before_any_again(num_sources, num_mixtures):
    for seed in range(5):
        pairs = draw_pairs(num_sources, num_mixtures, seed)
        assert pairs.shape == (num_mixtures, 2)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert torch.equal(pairs, draw_pairs(num_sources, num_mixtures, seed))
        if 2 * num_mixtures <= num_sources:
            assert max(Counter(pairs.flatten().tolist()).values()) == 1
        elif num_sources == 10_000:
            assert set(Counter(pairs.flatten().tolist()).values()) == {1, 2}
    assert not torch.equal(draw_pairs(100, 50, 0), draw_pairs(100, 50, 1))


def test_pairs_survive_their_file(tmp_path):
    pairs = draw_pairs(20, 8, 0)
    write_pairs(tmp_path / "pairs.csv", pairs)
    assert torch.equal(read_pairs(tmp_path / "pairs.csv", 20), pairs)
    with pytest.raises(LassError, match=r"outside 0…9"):
        read_pairs(tmp_path / "pairs.csv", 10)
    with pytest.raises(LassError, match="no list of test mixtures"):
        read_pairs(tmp_path / "other.csv", 10)
    (tmp_path / "pairs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LassError, match="no list of mixtures with the columns"):
        read_pairs(tmp_path / "pairs.csv", 10)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("mixture,first,second\n0,1,2\n".encode("utf-16"), "is not in UTF-8"),
        ("mixture,first,second\n0,1,2\n".encode("utf-16-le"), "holds NUL bytes"),
        (b"mixture,first,second\n0,1,\xe9\n", "is not in UTF-8"),
        (b"mixture,first,second\n0,1,\0\n", "holds NUL bytes"),
        (b"", "its first line is ''"),
        (b"mixture;first;second\n0;1;2\n", "its first line is 'mixture;first;second'"),
        (b"mixture,first,second\n", "it has no mixtures"),
        (b"mixture,first,second\n0,1,2\n1,2\n", "line 3 has 2 columns"),
        (b"mixture,first,second\n0,1,2,3\n", "line 2 has 4 columns"),
        (b"mixture,first,second\n0,1,1.5\n", "invalid literal for int"),
        (b"mixture,first,second\n0,1,18446744073709551616\n", "outside 0…9"),
        (b"mixture,first,second\n0,-1,2\n", "outside 0…9"),
        (b"mixture,first,second\n0,1," + b"9" * 5000 + b"\n", "columns"),
        (b"mixture,first,second\n0,1," + b"9" * 200_000 + b"\n", "field larger than field limit"),
    ],
)
def test_lists_of_mixtures_that_are_none_are_one_sentence(tmp_path, content, reason):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(LassError, match=reason) as error:
        read_pairs(tmp_path / "pairs.csv", 10)
    assert str(error.value).startswith(str(tmp_path / "pairs.csv"))
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_lists_of_mixtures_may_have_been_through_a_spreadsheet(tmp_path):
    """Spreadsheets add a byte-order mark, CRLF line ends and empty lines."""
    (tmp_path / "pairs.csv").write_bytes(b"\xef\xbb\xbfmixture,first,second\r\n0,1,2\r\n\r\n1,3,4\r\n")
    assert read_pairs(tmp_path / "pairs.csv", 5).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("start", ["nan", "inf", "-1", "1e999"])
def test_songs_start_at_a_time(tmp_path, start):
    (tmp_path / "places.csv").write_text(f"mixture,song,start_seconds\n0,Track00001,{start}\n")
    with pytest.raises(LassError, match=r"names Track00001 at .* s: expected a start of 0 s or more"):
        read_places(tmp_path / "places.csv")
    write_places(tmp_path / "places.csv", [("Träck, 1", 1.5)])
    assert read_places(tmp_path / "places.csv") == [("Träck, 1", 1.5)]


@pytest.mark.parametrize(("dataset", "num_sources", "num_mixtures"), [("mnist", 10_000, 6_000), ("digits", 397, 198)])
def test_stored_test_mixtures_are_the_seeded_ones(repository, dataset, num_sources, num_mixtures):
    stored = read_pairs(repository / "experiments" / dataset / "test_mixtures.csv", num_sources)
    assert torch.equal(stored, draw_pairs(num_sources, num_mixtures, seed=0))


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


def test_counting_pairs_are_fresh_every_epoch_and_use_every_source_once():
    data = Digits(batch_size=16, num_validation=200, pairs=True)
    loader, epochs = data.train_dataloader(), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # as Lightning does
        epochs.append(torch.cat([batch.signals for batch in loader]))
    for pairs in epochs:
        assert pairs.shape == (600, 2, 1, 16, 16)
        once = (pairs * 255).round().long().flatten(0, 1).flatten(1).sum(1).sort().values
        assert torch.equal(once, data.part("train").images.long().flatten(1).sum(1).sort().values)
    assert not torch.equal(epochs[0][:, 0].sort(0).values, epochs[1][:, 0].sort(0).values)


def test_a_lonely_last_source_makes_no_pair():
    data = Digits(batch_size=300, num_validation=199, pairs=True)  # 1,201 sources
    assert [len(batch.signals) for batch in data.train_dataloader()] == [300, 300]


@pytest.mark.parametrize("num_sources", [11, 12, 13, 2])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_the_pairs_of_one_process_exactly(num_sources, num_ranks):
    def shares(make):
        ranks = [make(num_ranks, rank) for rank in range(num_ranks)]
        for sampler in ranks:
            sampler.set_epoch(3)
        shares = [list(sampler) for sampler in ranks]
        assert {len(share) for share in shares} == {len(ranks[0])}
        return sorted(item for share in shares for item in share if item is not None)

    alone = RandomPairing(num_sources, seed=5)
    alone.set_epoch(3)
    assert shares(lambda *ranks: RandomPairing(num_sources, *ranks, seed=5)) == sorted(alone)
    assert len({source for pair in alone for source in pair}) == num_sources // 2 * 2
    assert shares(lambda *ranks: PaddedSampler(num_sources, *ranks)) == list(range(num_sources))


def test_validation_and_test_mixtures_are_fixed():
    data = Digits(batch_size=7, num_validation=200, pairs=True, num_mixtures=20)
    for loader in (data.val_dataloader, data.predict_dataloader):
        first, second = (torch.cat([batch.signals for batch in loader()]) for _ in range(2))
        assert torch.equal(first, second)
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
    handling = {"batch_size": 3, "pairs": True, "predict_split": "validation", "num_mixtures": 2, "num_workers": 1}
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
