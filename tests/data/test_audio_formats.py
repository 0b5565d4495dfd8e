"""Tests of random access in all audio formats, and of headers with an unknown or wrong length."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import soundfile

from lass import LassError
from lass.data.audio import files as audio_files
from lass.data.audio.files import audio_info, check_whole, read_segment

LONG = 300_000  # samples; more than PREROLL
SHORT = 20_000


def music(num_samples, channels, seed=0):
    """Signal that exercises bit reservoirs and long-term prediction: a voice, then decaying tones between silence."""
    time = np.arange(num_samples)[:, None]
    phase = np.cumsum(0.012 + 0.004 * np.sin(time / 9_000), 0)
    voice = 0.15 * sum(np.sin(k * phase + k) / k for k in range(1, 25)) * (1 + np.sin(time / 7_000))
    voice = voice + 0.003 * np.random.default_rng(seed).standard_normal((num_samples, channels))
    tones = 0.5 * np.exp(-(time % 9_001) / 300) * np.sin(time * np.array([0.03, 0.041])[:channels])
    return np.where(time < num_samples // 2, voice, tones).astype(np.float32)


def write(path, samples, rate, format, subtype, **options):
    with soundfile.SoundFile(path, "w", rate, samples.shape[1], subtype, format=format, **options) as file:
        for start in range(0, len(samples), 2**16):  # larger blocks overflow the stack of the Vorbis encoder
            file.write(samples[start : start + 2**16])
    return path


MP3 = ("MP3", "MPEG_LAYER_III")
FORMATS = {
    **{f"wav {kind}": ("WAV", kind, 22050, 2, {}) for kind in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE")},
    **{f"wav {kind}": ("WAV", kind, 8000, 2, {}) for kind in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")},
    "wav gsm": ("WAV", "GSM610", 8000, 1, {}),  # libsndfile cannot seek in it
    "rf64": ("RF64", "PCM_16", 22050, 2, {}),
    "w64": ("W64", "PCM_16", 22050, 2, {}),
    "aiff": ("AIFF", "PCM_16", 22050, 2, {}),
    "aiff float": ("AIFF", "FLOAT", 22050, 2, {}),
    "au": ("AU", "PCM_16", 22050, 2, {}),
    "caf": ("CAF", "PCM_24", 22050, 2, {}),
    "flac": ("FLAC", "PCM_16", 44100, 2, {}),
    "mp3 128 kbit/s": (*MP3, 44100, 2, {"bitrate_mode": "CONSTANT", "compression_level": 0.6}),
    "mp3 8 kbit/s": (*MP3, 24000, 2, {"bitrate_mode": "CONSTANT", "compression_level": 0.99}),
    "mp3 average": (*MP3, 24000, 2, {"bitrate_mode": "AVERAGE", "compression_level": 0.99}),
    "mp3 variable": (*MP3, 24000, 1, {"bitrate_mode": "VARIABLE", "compression_level": 0.99}),
    "mp3 variable, stereo": (*MP3, 48000, 2, {"bitrate_mode": "VARIABLE", "compression_level": 0.8}),
    "vorbis": ("OGG", "VORBIS", 24000, 2, {"compression_level": 1.0}),
    "opus": ("OGG", "OPUS", 16000, 2, {"compression_level": 1.0}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_segments_are_those_of_the_whole_file(tmp_path, name):
    """Compared with the file decoded at once. Rounding may differ; a wrong state or position gives errors of 1e-3."""
    format, subtype, rate, channels, options = FORMATS[name]
    samples = music(LONG, channels)
    path = write(tmp_path / "song", samples, rate, format, subtype, **options)
    with soundfile.SoundFile(path) as file:
        whole = file.read(file.frames, dtype="float32", always_2d=True)
    assert audio_info(path).num_samples == len(whole)
    starts = np.random.default_rng(1).integers(0, len(whole) - 4_000, 20).tolist()
    for start in (0, 100, len(whole) - 3_999, len(whole) - 25_000, *starts):
        segment = read_segment(path, start, 4_000, rate).numpy().T
        part = whole[start : start + 4_000]
        np.testing.assert_allclose(segment[: len(part)], part, atol=1e-4, rtol=0, err_msg=f"from {start}")
        assert not segment[len(part) :].any()


def test_blocks_do_not_disturb_the_decoder(tmp_path, monkeypatch):
    """Counting and dropping samples in small blocks changes nothing, although `SoundFile` would seek after each."""
    path = write(tmp_path / "song", music(40_000, 1), 24000, *MP3, bitrate_mode="VARIABLE", compression_level=0.99)
    expected = read_segment(path, 30_000, 4_000, 24000)
    monkeypatch.setattr(audio_files, "BLOCK_VALUES", 1_000)
    np.testing.assert_allclose(read_segment(path, 30_000, 4_000, 24000), expected, atol=1e-4)


@pytest.fixture
def files(tmp_path):
    """Function that returns the bytes of a stereo file of `SHORT` samples at 22,050 Hz (Opus: 48,000 Hz)."""

    def of(format, subtype=None, num_samples=SHORT, **options):
        samples = music(num_samples, 2)
        path = write(tmp_path / "made", samples, 48000 if subtype == "OPUS" else 22050, format, subtype, **options)
        return bytearray(path.read_bytes())

    return of


def put(content, at, form, *values):
    struct.pack_into(form, content, at, *values)
    return content


def stream_info(content, num_samples):
    """Set the number of samples in the header of a FLAC file."""
    content[21] = content[21] & 0xF0 | num_samples >> 32
    return put(content, 22, ">I", num_samples & 0xFFFFFFFF)


def data_size(content, size):
    return put(content, content.index(b"data") + 4, "<I", size)


UNKNOWN = {
    "wav, 0": lambda files: data_size(files("WAV"), 0),
    "wav, everything 0": lambda files: put(data_size(files("WAV"), 0), 4, "<I", 0),
    "wav, 4 GB": lambda files: put(data_size(files("WAV"), 2**32 - 1), 4, "<I", 2**32 - 1),
    "wav, 2 GB": lambda files: data_size(files("WAV"), 2**31 - 37),
    "rf64, 0": lambda files: put(files("RF64", "PCM_16"), 20, "<QQQ", 0, 0, 0),
    "rf64, too much": lambda files: put(files("RF64", "PCM_16"), 20, "<QQQ", 2**62, 2**62, 2**60),
    "au": lambda files: put(files("AU", "PCM_16"), 8, ">I", 2**32 - 1),
    "aiff, 0": lambda files: put(files("AIFF", "PCM_16"), files("AIFF", "PCM_16").index(b"COMM") + 10, ">I", 0),
    "aiff, too much": lambda f: put(f("AIFF", "PCM_16"), f("AIFF", "PCM_16").index(b"COMM") + 10, ">I", 2**32 - 1),
    "flac": lambda files: stream_info(files("FLAC"), 0),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_files_of_unknown_length_are_read_to_their_end(tmp_path, files, name):
    path = tmp_path / "song"
    path.write_bytes(UNKNOWN[name](files))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audio_info(path).num_samples == SHORT
        check_whole(path)
    whole = read_segment(path, 0, SHORT, 22050)
    np.testing.assert_allclose(whole.numpy().T, music(SHORT, 2), atol=1e-3)  # 16 bits resolve 3e-5
    np.testing.assert_array_equal(read_segment(path, SHORT - 700, 900, 22050)[:, :700], whole[:, -700:])


def test_an_empty_wav_file_is_empty(tmp_path, files):
    """Chunks after an empty data chunk are not read as samples."""
    content = files("WAV")
    start = content.index(b"data") + 8
    for behind in (b"LIST" + struct.pack("<I", 10) + b"INFOabcdef", b"id3 \x03\0\0\0abc\0"):
        empty = data_size(content, 0)[:start] + behind
        (tmp_path / "song").write_bytes(put(empty, 4, "<I", len(empty) - 8))
        assert audio_info(tmp_path / "song").num_samples == 0


VARIABLE = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("WAV",), {}),
        (("RF64", "PCM_16"), {}),
        (("W64", "PCM_16"), {}),
        (("AIFF", "PCM_16"), {}),
        (("AU", "PCM_16"), {}),
        (("OGG", "VORBIS", 200_000), {}),
        (("OGG", "OPUS", 200_000), {}),
        ((*MP3, 200_000), VARIABLE),
        ((*MP3, 200_000), {"bitrate_mode": "CONSTANT", "compression_level": 0.5}),
    ],
)
def test_a_truncated_file_is_said_to_be_and_read_to_its_end(tmp_path, files, arguments, options):
    content, path = files(*arguments, **options), tmp_path / "song"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        num_samples = audio_info(path).num_samples
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"song is not whole: .*; only the samples that are there are read"):
        left = audio_info(path).num_samples
    assert 0.1 * num_samples < left < 0.9 * num_samples  # compressed halves differ in length
    check_whole(path)


def test_lengths_that_lie_are_not_believed(tmp_path, files):
    """An MP3 that claims 2^31 - 1 frames, a FLAC file that claims 2^36 - 1 samples, an Ogg file with two streams."""
    path, mp3, ogg = tmp_path / "song", files(*MP3, 200_000, **VARIABLE), files("OGG", "VORBIS", 200_000)
    path.write_bytes(put(mp3, mp3.index(b"Xing") + 8, ">I", 2**31 - 1))
    with pytest.warns(UserWarning, match="not whole: it ends after 20"):
        assert audio_info(path).num_samples == pytest.approx(200_000, abs=2 * 1152)  # padded to whole frames
    path.write_bytes(stream_info(files("FLAC"), 2**36 - 1))
    with pytest.warns(UserWarning, match="it ends after 20000 of 68719476735 samples"):
        assert audio_info(path).num_samples == SHORT
    other = bytearray(ogg)
    for at in [i for i in range(len(other)) if other[i : i + 4] == b"OggS"]:
        put(other, at + 14, "<I", 7)
    path.write_bytes(ogg + other)
    with pytest.warns(UserWarning, match="only the first of several streams"):
        assert audio_info(path).num_samples == 200_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: stream_info(files("FLAC"), 30_000), "damaged: it ends after 20000 samples instead of 30000"),
        (lambda files: files("FLAC")[:20_000], "is damaged"),
        (lambda files: stream_info(files("FLAC"), 0)[:20_000], "is damaged"),
        (lambda files: put(files("WAV"), 22, "<H", 65_535), "no audio file that can be read"),
        (lambda files: put(files("WAV"), 22, "<H", 1_000), "claims 1000 channels: expected at most 64"),
        (lambda files: put(files("WAV"), 22, "<H", 0), "no audio file that can be read"),
        (lambda files: put(files("WAV"), 24, "<I", 1), "claims 1 samples per second: expected 1000…384000"),
        (lambda files: put(files("WAV"), 24, "<I", 2**31 - 1), "claims 2147483647 samples per second"),
        (lambda files: put(files("WAV"), 24, "<I", 4_000_000_000), "no audio file that can be read"),
        (lambda files: put(files("WAV"), 16, "<I", 0xFFFFFFF0), "no audio file that can be read"),
        (lambda files: files("WAV")[:20], "no audio file that can be read"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, files, change, words):
    (tmp_path / "song").write_bytes(change(files))
    with pytest.raises(LassError, match=words):
        check_whole(tmp_path / "song")


def test_a_hole_in_an_ogg_file_is_damage(tmp_path, files):
    """After a lost page, the number of decoded samples is less than the length found by seeking."""
    content = files("OGG", "OPUS", 200_000)
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    (tmp_path / "song").write_bytes(content)
    with pytest.raises(LassError, match="of its 200000 samples are missing"):
        audio_info(tmp_path / "song")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value):
    samples = music(30_000, 2)
    samples[12_000, 1] = value
    path = write(tmp_path / "song", samples, 8000, "WAV", "FLOAT")
    for read in (lambda: check_whole(path), lambda: read_segment(path, 11_000, 2_000, 8000)):
        with pytest.raises(LassError, match=r"song holds NaN or infinite values after 1\.5 s"):
            read()
    read_segment(path, 0, 12_000, 8000)


def test_a_file_that_changes_is_looked_at_again(tmp_path):
    path = tmp_path / "song"
    for num_samples in (1_000, 2_000):
        assert audio_info(write(path, music(num_samples, 1), 8000, "WAV", "PCM_16")).num_samples == num_samples
