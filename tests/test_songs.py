"""`lass separate` for songs, as its user would run it."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from lass import Separator, separate_songs
from lass.cli import main
from lass.codecs import AudioVQVAE
from lass.likelihood import SparseLikelihood
from lass.priors import TransformerPrior
from lass.samplers import Greedy
from lass.separation import HighestScore, NoRefinement

NUM_CODES = 5


@pytest.fixture(scope="module")
def separator(tmp_path_factory):
    """Its folder."""
    torch.manual_seed(0)
    codec = AudioVQVAE(8000, NUM_CODES, strides=(4, 2), width=8, latent_dim=4).eval()
    codec.quantizer.codebook.copy_(codec.encode_latents(0.3 * torch.randn(1, 1, 800))[0, :, ::20].T[:NUM_CODES])
    triples = torch.cartesian_prod(*[torch.arange(NUM_CODES)] * 3)
    likelihood = SparseLikelihood(NUM_CODES, *triples.T, torch.rand(len(triples)).log())
    priors = [TransformerPrior(NUM_CODES, 40, dim=8, num_layers=1, num_heads=1, positions="rotary") for _ in range(2)]
    parts = (codec, priors, likelihood, Greedy(), HighestScore(), NoRefinement())
    folder = tmp_path_factory.mktemp("separator")
    return Separator(*parts, source_names=["drums", "bass"]).save_pretrained(folder)


def song(path, num_samples=9000, rate=8000, channels=1, **options):
    samples = 0.2 * np.random.default_rng(0).standard_normal((num_samples, channels)).clip(-4, 4)
    soundfile.write(path, samples, rate, **options)
    return path


def run(separator, out, *arguments):
    main(["separate", *map(str, arguments), "--separator", str(separator), "--out", str(out)])


@pytest.mark.parametrize(
    ("name", "rate", "channels"), [("a.wav", 8000, 1), ("a.flac", 44100, 2), ("a.mp3", 22050, 2), ("a.ogg", 16000, 1)]
)
def test_estimates_have_the_songs_rate_length_and_channels(separator, tmp_path, name, rate, channels):
    path = song(tmp_path / name, 12_345, rate, channels)
    given = soundfile.info(path)
    run(separator, tmp_path / "out", path)
    for source in ("drums", "bass"):
        made = soundfile.info(tmp_path / "out" / f"{source}.wav")
        assert (made.samplerate, made.frames, made.channels) == (rate, given.frames, channels)
    assert Image.open(tmp_path / "out" / "spectrograms.png").width > 300
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bass.wav", "drums.wav", "spectrograms.png"]


def test_the_file_is_what_the_separator_gives(separator, tmp_path):
    """Of half the song, because a codec's mixture is the mean of the sources, and a song is their sum."""
    path = song(tmp_path / "a.wav", 300)  # one window
    run(separator, tmp_path / "out", path)
    samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    expected = Separator.from_pretrained(separator).separate(samples[None] / 2).estimates[:, 0]
    for name, estimate in zip(("drums", "bass"), expected, strict=True):
        made = soundfile.read(tmp_path / "out" / f"{name}.wav", dtype="float32")[0]
        np.testing.assert_allclose(made, estimate, atol=1e-5)


def test_several_songs_have_folders_of_their_own(separator, tmp_path, capsys):
    (tmp_path / "songs").mkdir()
    for name in ("one", "two"):
        song(tmp_path / "songs" / f"{name}.wav", 2000)
    run(separator, tmp_path / "out", tmp_path / "songs")
    assert {path.parent.name for path in (tmp_path / "out").glob("*/drums.wav")} == {"one", "two"}
    assert "Estimates of 2 song(s)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="is there already"):
        run(separator, tmp_path / "out", tmp_path / "songs")
    run(separator, tmp_path / "out", tmp_path / "songs", "--overwrite")


def test_mistakes_end_in_one_sentence_and_leave_nothing(separator, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "text.wav").write_text("no audio")
    song(tmp_path / "empty.wav", 0)
    song(tmp_path / "short.wav", 7)
    broken = np.full(5000, 0.1)
    broken[4000] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 8000, subtype="FLOAT")
    for name, words in {
        "text.wav": "no audio file that can be read",
        "empty.wav": "holds no sound",
        "short.wav": "less than one code of this separator: expected at least 0.0010 s",
        "nan.wav": "holds NaN or infinite values",
        "nowhere.wav": "no audio file at",
    }.items():
        with pytest.raises(SystemExit) as error:
            run(separator, out, tmp_path / name)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert not out.exists() or not list(out.iterdir())
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit, match="no songs in the folder"):
        run(separator, out, tmp_path / "folder")
    with pytest.raises(SystemExit, match="leave out --classes"):
        run(separator, out, song(tmp_path / "a.wav"), "--classes", "1", "2")


def test_long_songs_are_read_piece_by_piece(separator, tmp_path, monkeypatch):
    """Never more than a window with what is around it, or a block that is written."""
    lengths = []
    read = separate_songs.read_segment

    def counting(path, start, length, sample_rate):
        lengths.append(length)
        return read(path, start, length, sample_rate)

    monkeypatch.setattr(separate_songs, "read_segment", counting)
    monkeypatch.setattr(separate_songs, "BLOCK_VALUES", 800)
    monkeypatch.setattr(separate_songs, "PICTURED_SECONDS", 0.1)
    run(separator, tmp_path / "out", song(tmp_path / "a.wav", 20_000))
    codec = Separator.from_pretrained(separator).codec
    assert len(lengths) > 20_000 / (40 * codec.hop)
    assert max(lengths) <= max(800, (40 + 2 * codec.margin) * codec.hop)
