"""Tests of segments of audio files and of audio data modules, on a tiny Slakh written by the tests."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import soundfile
import torch
import yaml
from scipy.signal import resample_poly
from tiny_datasets import noise, write, write_tiny_band, write_tiny_slakh

from lass import LassError
from lass.codecs import AudioVQVAE, ImageVQVAE
from lass.data.audio.files import _low_pass, audio_info, read_segment, resampled_length, rms_db
from lass.data.audio.module import SILENCE_DB, ClassTuples
from lass.data.audio.slakh import Slakh
from lass.data.module import check_sample_rate
from lass.data.sources import FixedTuples, FreshTuples

RATE = 8000


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_slakh(tmp_path, seconds=2.0, rate=RATE)


@pytest.fixture
def trio(tiny):
    """The tiny Slakh with a piano that is silent in the last quarter, and that the second song of training lacks."""
    for part in ("train", "validation", "test"):
        for number in range(2):
            track = tiny / part / f"Track{number:05d}"
            piano = noise(16_000, 7 + number)
            piano[12_000:] = 0
            write(track / "stems" / "S03.flac", piano, RATE)
    metadata = yaml.safe_load((tiny / "train" / "Track00001" / "metadata.yaml").read_text())
    del metadata["stems"]["S03"]
    (tiny / "train" / "Track00001" / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return tiny


TRIO = ["drums", "bass", "piano"]


def data(root, tmp_path, **options):
    return Slakh(str(root), cache=str(tmp_path / "cache"), **{"sample_rate": RATE, "seconds": 0.25, **options})


@pytest.mark.parametrize("wanted", [8000, 4000, 22050, 44100, 11025, 16000])
@pytest.mark.parametrize("start", [0, 1, 37, 441, 1000])
def test_a_segment_is_that_part_of_the_whole_file_resampled(tmp_path, wanted, start):
    write(tmp_path / "a.wav", np.stack([noise(3001, 0), noise(3001, 1)], 1))
    whole = soundfile.read(tmp_path / "a.wav", dtype="float32")[0].T
    common = math.gcd(RATE, wanted)
    up, down = wanted // common, RATE // common
    expected = whole
    if up != down:
        expected = resample_poly(whole, up, down, axis=1, window=_low_pass(max(up, down)))
    expected = torch.from_numpy(expected.copy())
    assert expected.shape[1] == resampled_length(3001, RATE, wanted) == math.ceil(3001 * wanted / RATE)
    for length in (5, 400, expected.shape[1] - start):
        segment = read_segment(tmp_path / "a.wav", start, length, wanted)
        torch.testing.assert_close(segment, expected[:, start : start + length], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rate", [8000, 11025, 44056])
def test_tones_below_both_limits_stay_what_they_are_and_others_vanish(tmp_path, rate):
    """44,056 Hz, an old rate of video recorders, has a small greatest common divisor with 22,050 Hz."""
    seconds, common = 0.5, 0.45 * min(rate, 22050)
    time = np.arange(round(seconds * rate)) / rate
    wanted = np.arange(round(seconds * 22050)) / 22050
    write(tmp_path / "low.wav", 0.5 * np.sin(2 * math.pi * 0.8 * common * time), rate)
    low = read_segment(tmp_path / "low.wav", 0, len(wanted), 22050)[0].numpy()
    inner = slice(300, -300)
    np.testing.assert_allclose(low[inner], 0.5 * np.sin(2 * math.pi * 0.8 * common * wanted)[inner], atol=2e-3)
    if rate > 22050:
        write(tmp_path / "high.wav", 0.5 * np.sin(2 * math.pi * 14_000 * time), rate)
        high = read_segment(tmp_path / "high.wav", 0, len(wanted), 22050)[0].numpy()
        assert np.abs(high[inner]).max() < 2e-3


@pytest.mark.parametrize("rate", [4000, RATE, 11025])
def test_behind_the_end_is_silence(tmp_path, rate):
    write(tmp_path / "a.wav", noise(100, 0))
    assert not read_segment(tmp_path / "a.wav", 500, 20, rate).any()
    segment = read_segment(tmp_path / "a.wav", 90, 20, RATE)
    assert segment[:, :10].any()
    assert not segment[:, 10:].any()


def test_what_is_no_audio_is_said_in_one_sentence(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(LassError, match=r"a\.wav is no audio file that can be read"):
        audio_info(tmp_path / "a.wav")
    with pytest.raises(LassError, match="no audio file at"):
        audio_info(tmp_path / "b.wav")
    write(tmp_path / "cut.flac", noise(50_000, 0))
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:20_000])
    with pytest.raises(LassError, match=r"cut\.flac is damaged"):
        read_segment(tmp_path / "cut.flac", 0, 50_000, RATE)


def test_loudness_is_relative_to_full_scale():
    assert rms_db(torch.ones(10)) == 0
    assert rms_db(torch.sin(torch.arange(8000) * 2 * math.pi / 80)) == pytest.approx(-3.01, abs=0.01)
    assert rms_db(torch.zeros(10)) == -math.inf


def test_chunks_are_those_of_a_slow_scan(tiny, tmp_path):
    module = data(tiny, tmp_path, hop_seconds=0.1)
    num_samples, hop = 2000, 800
    expected = []
    for label, stems in enumerate((("S00", "S02"), ("S01",))):
        for number in range(2):
            folder = tiny / "train" / f"Track{number:05d}" / "stems"
            song = sum(soundfile.read(folder / f"{stem}.flac")[0] for stem in stems)
            for start in range(0, len(song) - num_samples + 1, hop):
                level = 10 * np.log10(max(1e-20, (song[start : start + num_samples] ** 2).mean()))
                if level >= SILENCE_DB:
                    expected.append((f"Track{number:05d}", start, label))
    part = module.part("train")
    assert sorted(part.chunks, key=lambda chunk: (chunk.label, chunk.song, chunk.start)) == expected
    assert {start for _, start, label in expected if label == 0} < {start for _, start, label in expected if label == 1}

    chosen = [part.chunks.index(expected[0]), part.chunks.index(expected[-1])]
    sources = part.__getitems__(chosen)
    assert sources.signals.shape == (2, 1, num_samples)
    assert sources.labels.tolist() == [0, 1]
    song, start, _ = expected[0]
    both = sum(soundfile.read(tiny / "train" / song / "stems" / f"{stem}.flac")[0] for stem in ("S00", "S02"))
    np.testing.assert_allclose(sources.signals[0, 0], both[start : start + num_samples], atol=1e-6)


def test_the_index_is_kept(tiny, tmp_path, monkeypatch):
    first = data(tiny, tmp_path).part("train").chunks
    monkeypatch.setattr("lass.data.audio.module.find_chunks", lambda *arguments: pytest.fail("looked again"))
    assert data(tiny, tmp_path).part("train").chunks == first
    with pytest.raises(pytest.fail.Exception):
        data(tiny, tmp_path, silence_db=-30.0).part("train")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"chunks": 3}',
        '{"chunks": [["Track00000", 0]]}',
        '{"chunks": [["../../Track00000", 0, 1]]}',
        '{"chunks": [["Track00000", NaN, 1]]}',
        '{"chunks": [["Track00000", 0.5, 1]]}',
        '{"chunks": [["Track00000", -2000, 1]]}',
        '{"chunks": [["Track00000", 1, 1]]}',
        '{"chunks": [["Track00000", 0, -1]]}',
        '{"chunks": [["Track00000", 0, 2]]}',
        '{"chunks": [[["Track00000"], 0, 1]]}',
    ],
)
def test_a_damaged_index_is_made_again(tiny, tmp_path, content):
    expected = data(tiny, tmp_path).part("train").chunks
    (path,) = (tmp_path / "cache").glob("*train*.json")
    stored = path.read_text()
    path.write_text(content)
    assert data(tiny, tmp_path).part("train").chunks == expected
    assert path.read_text() == stored


def test_one_source_alone(tiny, tmp_path):
    module = data(tiny, tmp_path, source="bass", batch_size=2)
    assert {chunk.label for chunk in module.part("train").chunks} == {1}
    assert next(iter(module.train_dataloader())).labels.tolist() == [1, 1]
    others = [data(tiny, tmp_path, **options) for options in ({"source": "drums"}, {}, {"seconds": 0.3})]
    assert len({each.identity("train") for each in (module, *others)}) == 4


def test_any_class_of_the_metadata_can_be_a_source(trio, tmp_path):
    module = data(trio, tmp_path, classes=["Bass", "Drums", "Piano"], source="PIANO", batch_size=2)
    part = module.part("train")
    assert {(chunk.song, chunk.start) for chunk in part.chunks} == {("Track00000", 2000 * i) for i in range(6)}
    batch = next(iter(module.train_dataloader()))
    assert batch.labels.tolist() == [2, 2]
    whole = soundfile.read(trio / "train" / "Track00000" / "stems" / "S03.flac")[0]
    start = part.chunks[4].start
    np.testing.assert_allclose(part[4].signals[0], whole[start : start + 2000], atol=1e-6)
    with pytest.raises(
        LassError, match=r"source must be one of classes \(drums, bass\), not 'piano': add it to classes"
    ):
        data(trio, tmp_path, source="Piano")


@pytest.mark.parametrize("classes", [["drums", "bass"], TRIO, ["piano", "drums"]])
@pytest.mark.parametrize("pairing", ["aligned", "random"])
def test_tuples_have_one_chunk_of_each_class(trio, tmp_path, pairing, classes):
    module = data(trio, tmp_path, classes=classes, tuples=True, pairing=pairing, batch_size=2)
    assert module.num_sources == len(classes)
    chunks = module.part("train").chunks
    by_class = [{chunk[:2] for chunk in chunks if chunk.label == label} for label in range(len(classes))]
    num_tuples = len(set.intersection(*by_class)) if pairing == "aligned" else min(map(len, by_class))
    loader, epochs = module.train_dataloader(), []
    for epoch in range(6):  # few tuples: two epochs have the same order in one case of 24
        loader.sampler.set_epoch(epoch)
        epochs.append(list(loader.sampler))
        assert len(epochs[-1]) == num_tuples
        for positions in epochs[-1]:
            assert [chunks[i].label for i in positions] == list(range(len(classes)))
            if pairing == "aligned":
                assert len({chunks[i][:2] for i in positions}) == 1
        for of_class in zip(*epochs[-1], strict=True):  # each chunk at most once
            assert len(set(of_class)) == num_tuples
    same_tuples = all(set(epoch) == set(epochs[0]) for epoch in epochs)
    assert any(epoch != epochs[0] for epoch in epochs)
    assert same_tuples == (pairing == "aligned")
    batch = next(iter(module.val_dataloader()))
    assert batch.signals.shape == (2, len(classes), 1, 2000)
    assert batch.labels.tolist() == [list(range(len(classes)))] * 2


def test_mixtures_are_aligned_seeded_and_at_most_as_many(tiny, tmp_path):
    module = data(tiny, tmp_path, predict_split="test")
    pairs = module.mixture_tuples()
    chunks = module.part("test").chunks
    assert all(chunks[first][:2] == chunks[second][:2] for first, second in pairs.tolist())
    starts = {chunks[first].start for first in pairs[:, 0].tolist()}
    assert starts == {0, 2000, 8000, 10000, 12000, 14000}  # the drums are silent from 4000 to 8000
    few = data(tiny, tmp_path, most_mixtures=5).mixture_tuples()
    assert torch.equal(few, pairs[:5])
    other = data(tiny, tmp_path, most_mixtures=5, split_seed=1)
    assert places(other, other.mixture_tuples()) != places(module, few)
    assert {song for song, _ in places(module, few)} == {"Track00000", "Track00001"}  # not only the first song
    signals = next(iter(module.predict_dataloader())).signals
    assert signals.shape[1:] == (2, 1, 2000)


def test_mixtures_of_three_are_where_all_three_sound(trio, tmp_path):
    module = data(trio, tmp_path, classes=TRIO)
    tuples, chunks = module.mixture_tuples(), module.part("test").chunks
    # The drums are silent from 4000 to 8000, the piano from 12000 to 16000.
    expected = {(f"Track{number:05d}", start) for number in range(2) for start in (0, 2000, 8000, 10000)}
    assert {chunks[i][:2] for i in tuples[:, 0].tolist()} == expected
    assert len(tuples) == len(expected)
    for positions in tuples.tolist():
        assert len({chunks[i][:2] for i in positions}) == 1
        assert [chunks[i].label for i in positions] == [0, 1, 2]
    batch = module.predict_dataloader().dataset.__getitems__([3])
    song, start, _ = chunks[tuples[3, 0]]
    for source, stems in enumerate((("S00", "S02"), ("S01",), ("S03",))):
        whole = sum(soundfile.read(trio / "test" / song / "stems" / f"{stem}.flac")[0] for stem in stems)
        np.testing.assert_allclose(batch.signals[0, source, 0], whole[start : start + 2000], atol=1e-6)

    (stored,) = (tmp_path / "cache").glob("*mixtures*.csv")
    assert stored.read_text().splitlines()[0] == "mixture,song,start_seconds"
    lines = stored.read_text().splitlines()
    reverse = tmp_path / "reverse.csv"
    reverse.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    again = data(trio, tmp_path, classes=TRIO, mixtures=str(reverse))
    assert torch.equal(again.mixture_tuples(), tuples.flip(0))
    reverse.write_text(f"{lines[0]}\n0,Track00001,1.5\n")  # drums and bass sound there, but no piano
    assert len(data(trio, tmp_path, mixtures=str(reverse)).mixture_tuples()) == 1
    with pytest.raises(LassError, match=r"'Track00001' at 1.5 s, where drums and bass and piano do not all sound"):
        data(trio, tmp_path, classes=TRIO, mixtures=str(reverse)).mixture_tuples()


BAND = ["drums", "bass", "guitar", "piano"]


def test_mixtures_may_have_silent_sources_and_missing_stems(tmp_path):
    """With `least_active`, mixtures are at all places where enough classes sound; the others are read as they are."""
    root = write_tiny_band(tmp_path, seconds=2.0, rate=RATE)
    hum = noise(16_000, 1, level=0.001)  # a bass below the threshold of silence
    write(root / "test" / "Track00001" / "stems" / "S01.flac", hum, RATE)
    module = data(root, tmp_path, classes=BAND, least_active=2)
    tuples, chunks = module.mixture_tuples(), module.part("test").chunks
    # In the first song at least bass, guitar and piano sound; in the second only the drums, beside the hum.
    assert {chunks[i][:2] for i in tuples[:, 0].tolist()} == {("Track00000", 2000 * i) for i in range(8)}
    for positions in tuples.tolist():
        assert len({chunks[i][:2] for i in positions}) == 1
        assert [chunks[i].label for i in positions] == [0, 1, 2, 3]
    batch = module.predict_dataloader().dataset.__getitems__(list(range(8)))
    silent = [chunks[i].start in (4000, 6000) for i in tuples[:, 0].tolist()]
    assert (~batch.signals[:, 0].any(-1))[:, 0].tolist() == silent
    assert batch.signals[:, 1:].any(-1).all()
    assert {True, False} == set(silent[:7])  # shuffled: places with silent classes are not the last ones

    write(root / "test" / "Track00001" / "stems" / "S01.flac", noise(16_000, 1), RATE)
    again = data(root, tmp_path, classes=BAND, least_active=2)
    tuples, chunks = again.mixture_tuples(), again.part("test").chunks
    # In the second song drums and bass sound, outside of the second quarter; it has neither guitar nor piano.
    starts = (0, 2000, 8000, 10000, 12000, 14000)
    second = [positions for positions in tuples.tolist() if chunks[positions[0]].song == "Track00001"]
    assert sorted(chunks[positions[0]].start for positions in second) == list(starts)
    signals = again.part("test").__getitems__(second[0]).signals
    assert signals[:2].any(-1).all()
    assert not signals[2:].any()
    assert len(tuples) == 8 + 6
    # Lists of other settings have other names; all four sound in the first song only.
    assert len(data(root, tmp_path, classes=BAND).mixture_tuples()) == 6
    assert len(data(root, tmp_path, classes=BAND, least_active=3).mixture_tuples()) == 8
    assert len(list((tmp_path / "cache").glob("*mixtures*.csv"))) == 4


def test_training_needs_sources_that_sound(tmp_path):
    root = write_tiny_band(tmp_path, seconds=2.0, rate=RATE)
    for options in ({"source": "bass"}, {"tuples": True}):
        with pytest.raises(LassError, match="least_active is for the mixtures of stage 4"):
            data(root, tmp_path, classes=BAND, least_active=2, **options)
    module = data(root, tmp_path, classes=BAND, least_active=2)
    module.setup("predict")
    with pytest.raises(LassError, match="least_active is for the mixtures of stage 4"):
        module.setup("fit")
    for number in (1, 5):
        with pytest.raises(LassError, match="least_active must be an integer, at least 2, at most 4"):
            data(root, tmp_path, classes=BAND, least_active=number)


def test_classes_that_never_sound_together_are_refused(trio, tmp_path):
    for stem, num_silent in (("S00", 16_000), ("S02", 12_000)):  # drums only where the piano is silent
        drums = noise(16_000, 3)
        drums[:num_silent] = 0
        write(trio / "train" / "Track00000" / "stems" / f"{stem}.flac", drums, RATE)
    module = data(trio, tmp_path, classes=TRIO, tuples=True)
    with pytest.raises(LassError, match=r"In no train chunk in .* drums and bass and piano all sound: expected some"):
        module.train_dataloader()


def test_songs_that_lack_stems_may_leave_no_tuple_for_the_validation(tmp_path):
    """All classes sound in some validation song, but the guitar in another one than the piano."""
    root = write_tiny_band(tmp_path, seconds=2.0, rate=RATE, without_piano=("validation/Track00000",))
    module = data(root, tmp_path, classes=BAND, tuples=True, pairing="random", batch_size=2)
    assert next(iter(module.train_dataloader())).signals.shape == (2, 4, 1, 2000)
    with pytest.raises(LassError, match=r"In no validation chunk in .* drums and bass and guitar and piano all sound"):
        module.val_dataloader()


def places(module, pairs):
    chunks = module.part("test").chunks
    return [chunks[first][:2] for first in pairs[:, 0].tolist()]


def test_mixtures_are_stored_with_songs_and_times(tiny, tmp_path):
    """Names and times keep a list valid when songs are added, and reveal a list of other data."""
    module = data(tiny, tmp_path)
    drawn = places(module, module.mixture_tuples())
    (stored,) = (tmp_path / "cache").glob("*mixtures*.csv")
    lines = stored.read_text().splitlines()
    assert lines[:2] == ["mixture,song,start_seconds", f"0,{drawn[0][0]},{drawn[0][1] / RATE}"]
    stored.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    again = data(tiny, tmp_path)
    assert places(again, again.mixture_tuples()) == drawn[::-1]  # the stored order is used
    named = data(tiny, tmp_path, split_seed=7, mixtures=str(stored))
    assert places(named, named.mixture_tuples()) == drawn[::-1]
    with pytest.raises(LassError, match=r"names 'Track0000\d' at .* s, where drums and bass do not all sound"):
        data(tiny, tmp_path, mixtures=str(stored), seconds=0.2).mixture_tuples()
    with pytest.raises(LassError, match="no list of test mixtures"):
        data(tiny, tmp_path, mixtures="nowhere.csv").mixture_tuples()


def test_a_set_without_parts_is_divided(tiny, tmp_path):
    """Layout of BabySlakh: one folder of tracks with WAV files."""
    flat = tmp_path / "babyslakh_16k"
    for number in range(20):
        track = flat / f"Track{number:05d}"
        write(track / "stems" / "S00.wav", noise(4000, number))
        write(track / "stems" / "S01.wav", noise(4000, 100 + number))
        stems = {"S00": {"inst_class": "Drums"}, "S01": {"inst_class": "Bass"}}
        (track / "metadata.yaml").write_text(yaml.safe_dump({"stems": stems}))
    parts = [
        {chunk.song for chunk in data(flat, tmp_path).part(part).chunks} for part in ("train", "validation", "test")
    ]
    assert [len(songs) for songs in parts] == [16, 2, 2]
    assert len(set.union(*parts)) == 20


def test_ranks_share_tuples():
    positions = [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11]]
    shares = [list(ClassTuples(positions, False, 2, rank, seed=1)) for rank in (0, 1)]
    tuples = [chosen for share in shares for chosen in share if chosen is not None]
    assert len(shares[0]) == len(shares[1]) == 2
    assert len(tuples) == 3
    for used, of_class in zip(zip(*tuples, strict=True), positions, strict=True):
        assert len(set(used)) == 3
        assert set(used) <= set(of_class)
    aligned = [[0, 1, 2], [5, 3, 4], [8, 6, 7]]
    assert sorted(ClassTuples(aligned, True, seed=1)) == [(0, 5, 8), (1, 3, 6), (2, 4, 7)]


def test_tuples_of_two_classes_are_those_of_earlier_versions():
    def one_epoch(aligned):
        sampler = ClassTuples([[0, 1, 2, 3, 4], [9, 8, 7, 6, 5]], aligned, seed=4)
        sampler.set_epoch(2)
        return list(sampler)

    assert one_epoch(True) == [(0, 9), (2, 7), (1, 8), (3, 6), (4, 5)]
    assert one_epoch(False) == [(0, 5), (2, 7), (1, 9), (3, 6), (4, 8)]


def test_songs_that_were_replaced_are_looked_at_again(tiny, tmp_path):
    before = data(tiny, tmp_path).identity("train")
    assert data(tiny, tmp_path).identity("train") == before
    (stem, *_) = sorted(tiny.glob("train/*/stems/*"))
    os.utime(stem, ns=(0, 0))
    assert data(tiny, tmp_path).identity("train") != before


def test_a_batch_of_padding_only_has_no_tuples(tiny, tmp_path):
    """Example: with 17 tuples, two ranks and batches of 8, the last batch of the second rank is padding only."""
    chunks = data(tiny, tmp_path).part("train")
    for dataset in (FreshTuples(chunks, 2), FixedTuples(chunks, torch.tensor([[0, 1]]))):
        batch = dataset.__getitems__([None])
        assert batch.signals.shape == (0, 2, 1, RATE // 4)
        assert batch.labels.shape == (0, 2)
        assert len(batch.indices) == 0
        assert [field.dtype for field in batch] == [torch.float32, torch.int64, torch.int64]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["drums", "organ"]}, "no chunk of 0.25 s in which organ is louder"),
        ({"classes": ["drums"]}, "classes must name two to 64 different classes, not drums"),
        ({"classes": ["drums", "Drums"]}, "classes must name two to 64 different classes, not drums, drums"),
        ({"classes": ["drums", "bass", "Drums"]}, "classes must name two to 64 different classes"),
        ({"source": "guitar"}, r"source must be one of classes \(drums, bass\), not 'guitar': add it to classes"),
        ({"source": "bass", "tuples": True}, "Tuples need chunks of all classes: leave out source"),
        ({"weights": [0.2, 0.3, 0.5]}, "weights must be 2 numbers"),
        ({"weights": [1.0, 1.0]}, "weights must have a sum of at most 1"),
        ({"tuples": True, "batch_size": 50}, "fewer than one batch of 50 tuples of 2 chunks"),
        ({"seconds": 0.0}, "seconds must be a number, above 0"),
        ({"seconds": math.nan}, "seconds must be a number, above 0"),
        ({"seconds": 1e300}, "seconds must be a number, above 0, at most 3600"),
        ({"hop_seconds": -1.0}, "hop_seconds must be a number, above 0"),
        ({"hop_seconds": 1e-9}, "shorter than a sample"),
        ({"sample_rate": 0}, "sample_rate must be an integer, at least 1"),
        ({"sample_rate": 10**9}, "sample_rate must be an integer, at least 1, at most 384000"),
        ({"silence_db": math.nan}, "silence_db must be a number, at most 0"),
        ({"silence_db": math.inf}, "silence_db must be a number, at most 0"),
        ({"most_mixtures": 0}, "most_mixtures must be an integer, at least 1"),
        ({"seconds": 60.0}, "no chunk of 60 s"),
        ({"batch_size": 500}, "fewer than one batch of 500 chunks"),
    ],
)
def test_mistakes_are_named(tiny, tmp_path, options, words):
    with pytest.raises(LassError, match=words):
        data(tiny, tmp_path, **options).train_dataloader()


def test_audio_of_another_rate_than_the_codecs_is_refused(tiny, tmp_path):
    check_sample_rate(data(tiny, tmp_path), AudioVQVAE(RATE, 4))
    check_sample_rate(data(tiny, tmp_path), ImageVQVAE())  # no sample rate: no error
    with pytest.raises(
        LassError, match=r"data has 8000 samples per second, but the codec is for 22050: set the data's"
    ):
        check_sample_rate(data(tiny, tmp_path), AudioVQVAE(22050, 4))


def test_samples_that_are_no_numbers_are_no_silence(tiny, tmp_path):
    """Comparisons with NaN are false, so chunks of NaN would be dropped as silent without an error."""
    track = tiny / "train" / "Track00000" / "stems"
    (track / "S01.flac").unlink()
    soundfile.write(track / "S01.wav", np.full(16_000, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(LassError, match=r"S01\.wav holds NaN or infinite values after 0\.0 s"):
        data(tiny, tmp_path).part("train")


def test_a_broken_dataset_is_named(tiny, tmp_path):
    (tiny / "train" / "Track00000" / "stems" / "S00.flac").unlink()
    with pytest.raises(LassError, match=r"1 stems in .* are missing \(.*S00\.flac\)"):
        data(tiny, tmp_path).part("train")
    metadata = tiny / "test" / "Track00000" / "metadata.yaml"
    for content in (
        b"stems: [a, b]",
        b"stems: {S00: {inst_class: 2001-99-99}}",
        b"stems: {S00: !!python/object/apply:os.getcwd []}",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
    ):
        metadata.write_bytes(content)
        with pytest.raises(LassError, match=r"metadata\.yaml does not list stems"):
            data(tiny, tmp_path).part("test")
    for name in ("../../S00", "/etc/S00", "..", "a\0b", 7):
        metadata.write_text(yaml.safe_dump({"stems": {name: {"inst_class": "Drums"}}}))
        with pytest.raises(LassError, match=r"metadata\.yaml holds the name .*, which cannot be the name of a file"):
            data(tiny, tmp_path).part("test")
    metadata.unlink()
    metadata.mkdir()
    with pytest.raises(LassError, match=r"metadata\.yaml does not list stems"):
        data(tiny, tmp_path).part("test")
    with pytest.raises(LassError, match="get slakh2100_flac_redux"):
        data(tmp_path / "nowhere", tmp_path).part("test")
