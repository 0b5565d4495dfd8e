"""`lass separate` on songs, through the command line."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from band_separator import band_separator, write_song
from PIL import Image
from toy_worlds import fitted_additive

from lass import Separator
from lass.cli import songs
from lass.cli.main import main
from lass.codecs import AudioVQVAE
from lass.likelihood import SparseLikelihood
from lass.priors import TransformerPrior
from lass.samplers import Greedy
from lass.separation import HighestScore, NoRefinement, WienerFilter

NUM_CODES = 5


@pytest.fixture(scope="module")
def separator(tmp_path_factory):
    """Folder of a separator with an audio codec."""
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
    path = song(tmp_path / name, 3_001, rate, channels)
    given = soundfile.info(path)
    run(separator, tmp_path / "out", path)
    for source in ("drums", "bass"):
        made = soundfile.info(tmp_path / "out" / f"{source}.wav")
        assert (made.samplerate, made.frames, made.channels) == (rate, given.frames, channels)
    assert Image.open(tmp_path / "out" / "spectrograms.png").width > 300
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bass.wav", "drums.wav", "spectrograms.png"]


def test_the_file_is_what_the_separator_gives(separator, tmp_path):
    """The input of the separator is half of the song, because mixtures are means of sources and songs are sums."""
    path = song(tmp_path / "a.wav", 300)  # one window
    run(separator, tmp_path / "out", path)
    samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    expected = Separator.from_pretrained(separator).separate(samples[None] / 2).estimates[:, 0]
    for name, estimate in zip(("drums", "bass"), expected, strict=True):
        made = soundfile.read(tmp_path / "out" / f"{name}.wav", dtype="float32")[0]
        np.testing.assert_allclose(made, estimate, atol=1e-5)


@pytest.mark.parametrize("weights", [None, [0.5, 0.25, 0.15]], ids=str)
def test_three_sources_add_up_to_the_song(tmp_path, weights):
    """The separator is given the song times the mean weight, and its estimates are scaled to their parts of the song.

    The Wiener filter keeps the mixture exactly, so that the sources add up to the song in float32.
    """
    torch.manual_seed(0)
    codec = AudioVQVAE(8000, NUM_CODES, strides=(4, 2), width=8, latent_dim=4).eval()
    prior = TransformerPrior(NUM_CODES, 40, dim=8, num_layers=1, num_heads=1, positions="rotary")
    likelihood = fitted_additive(codec, 0.2 * torch.randn(3, 3, 1, 800))
    parts = (codec, prior, likelihood, Greedy(), HighestScore(), WienerFilter(64))
    separator = Separator(*parts, num_sources=3, mixing_weights=weights)
    folder, path = separator.save_pretrained(tmp_path / "separator"), song(tmp_path / "a.wav", 300, subtype="FLOAT")
    run(folder, tmp_path / "out", path)
    names = [f"source-{source}.wav" for source in (1, 2, 3)]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [*names, "spectrograms.png"]
    made = torch.stack(
        [torch.from_numpy(soundfile.read(tmp_path / "out" / name, dtype="float32")[0]) for name in names]
    )
    samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    torch.testing.assert_close(made.sum(0), samples, atol=1e-5, rtol=0)
    factors = torch.tensor(weights or [1 / 3] * 3)
    estimates = separator.separate(factors.mean() * samples[None]).estimates[:, 0]
    torch.testing.assert_close(made, factors[:, None] / factors.mean() * estimates, atol=1e-5, rtol=0)


def test_the_number_of_sources_is_an_option(separator, tmp_path):
    with pytest.raises(SystemExit, match="is for 2 different sources: num_sources can only be changed where all"):
        run(separator, tmp_path / "out", song(tmp_path / "a.wav", 300), "--num-sources", 3)
    assert not (tmp_path / "out").exists()


def test_several_songs_have_folders_of_their_own(separator, tmp_path, capsys):
    (tmp_path / "songs").mkdir()
    for name in ("one", "two"):
        song(tmp_path / "songs" / f"{name}.wav", 300)
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


def test_what_the_system_leaves_beside_a_song_is_one_sentence(separator, tmp_path):
    """A hidden file that is not audio gives one sentence; macOS writes ._x.wav beside x.wav on foreign file systems."""
    (tmp_path / "._a.wav").write_bytes(bytes.fromhex("00051607000200004d6163204f5320582020202020202020") + bytes(100))
    with pytest.raises(SystemExit, match=r"\._a\.wav is no audio file that can be read"):
        run(separator, tmp_path / "out", tmp_path / "._a.wav")


@pytest.mark.filterwarnings("ignore:The picture")
def test_dollars_in_names_are_no_mathematics(separator, tmp_path):
    """Estimates are complete if the name of a song contains `$`, which starts mathematics in matplotlib."""
    files = [song(tmp_path / name, 300) for name in ("Ba$$in.wav", "$a^b^c$.wav", r"\frac{.wav")]
    run(separator, tmp_path / "out", *files)
    for path in files:
        assert soundfile.info(tmp_path / "out" / path.stem / "drums.wav").frames == 300


def test_no_picture_costs_results(separator, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no such font")

    monkeypatch.setattr(songs, "image_grid", fail)
    with pytest.warns(UserWarning, match=r"picture .*spectrograms\.png could not be made \(no such font\)"):
        run(separator, tmp_path / "out", song(tmp_path / "a.wav", 300))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bass.wav", "drums.wav"]


@pytest.mark.parametrize("error", [soundfile.LibsndfileError(2), AssertionError()])
@pytest.mark.parametrize("writes", [0, 3, 5])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(separator, tmp_path, monkeypatch, error, writes):
    """The disk is full during separation (2 files, 2 windows) or during resampling of the estimates."""
    written, write = [], soundfile.SoundFile.write

    def until_full(file, data):
        if len(written) == writes:
            raise error
        written.append(write(file, data))

    path = song(tmp_path / "a.wav", 480)
    monkeypatch.setattr(soundfile.SoundFile, "write", until_full)
    with pytest.raises(SystemExit, match=r"estimates of .*a\.wav cannot be written to .*out \(the disk is full"):
        run(separator, tmp_path / "out", path)
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_made_is_one_sentence(separator, tmp_path):
    files = [song(tmp_path / name, 300) for name in ("one.wav", "two.wav")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one").write_text("in the way")
    with pytest.raises(SystemExit, match=r"cannot be written to .*one \(File exists\): free some space there or"):
        run(separator, tmp_path / "out", *files)


def test_an_interrupted_run_leaves_nothing(separator, tmp_path, monkeypatch):
    read, reads = songs.read_segment, []

    def interrupted(*arguments):
        reads.append(arguments)
        if len(reads) == 3:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(songs, "read_segment", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(separator, tmp_path / "out", song(tmp_path / "a.wav", 700))
    assert len(reads) == 3
    assert not list((tmp_path / "out").iterdir())


def test_long_songs_are_read_piece_by_piece(separator, tmp_path, monkeypatch):
    """No read is longer than a window with its context, or than a block to be written."""
    lengths = []
    read = songs.read_segment

    def counting(path, start, length, sample_rate):
        lengths.append(length)
        return read(path, start, length, sample_rate)

    monkeypatch.setattr(songs, "read_segment", counting)
    monkeypatch.setattr(songs, "BLOCK_VALUES", 800)
    monkeypatch.setattr(songs, "PICTURED_SECONDS", 0.1)
    run(separator, tmp_path / "out", song(tmp_path / "a.wav", 3_000))
    codec = Separator.from_pretrained(separator).codec
    assert len(lengths) > 3_000 / (40 * codec.hop)
    assert max(lengths) <= max(800, (40 + 2 * codec.margin) * codec.hop)


def test_sources_may_be_called_by_numbers(tmp_path):
    """Whatever the names are, each estimate is that of its source."""
    write_song(tmp_path / "song.wav", 1.0)
    signals = {}
    for names in (("bass", "drums"), ("1", "0"), ("0", "1")):
        files = [tmp_path / "-".join(names) / f"{name}.wav" for name in names]
        songs.separate_song(
            tmp_path / "song.wav", [*files, files[0].with_suffix(".png")], band_separator(names), seed=0
        )
        signals[names] = [soundfile.read(file)[0] for file in files]
    for names in (("1", "0"), ("0", "1")):
        np.testing.assert_array_equal(signals[names], signals["bass", "drums"])
