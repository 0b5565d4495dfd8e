"""What the page does, without a browser: models, settings, separations and their files."""

from __future__ import annotations

import asyncio
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch
from band_separator import RATE, band_separator, write_song
from gradio.state_holder import SessionState
from PIL import Image

from lass import read_image
from lass.app.images import read_mixture
from lass.app.models import Model, load_models
from lass.app.page import build_page
from lass.app.progress import Stopped
from lass.app.session import Session, Sessions
from lass.app.settings import SAMPLERS, Limits, Settings, parse_classes
from lass.cli.main import main
from lass.errors import LassError
from lass.samplers import Greedy, SequentialMonteCarlo, TopK

ONE = [[[0.5, 0.1], [0.5, 0.9]]]
SEVEN = [[[0.3, 0.2], [0.7, 0.2], [0.45, 0.85]]]
LIMITS = Limits()
FAST = Settings(sampler="Greedy")


def silent(fraction, what):
    """Report of the progress that shows nothing."""


@pytest.fixture(scope="module")
def digits():
    """The separator of pretrained/mnist, with few candidates."""
    (model,) = load_models([str(Path(__file__).parents[2] / "pretrained/mnist")])
    model.separator.sampler = SequentialMonteCarlo(8)
    model.separator.refinement = replace(model.separator.refinement, steps=2)
    return model


@pytest.fixture(scope="module")
def bands():
    return Model("bands", band_separator())


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path, LIMITS)


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_controls_are_those_that_apply(digits, bands):
    assert (digits.is_audio, digits.can_be_drawn, digits.can_count_sources) == (False, True, True)
    assert (digits.numbers_of_sources, digits.num_classes) == ([2, 3, 4], 10)
    assert (bands.is_audio, bands.can_be_drawn, bands.can_count_sources) == (True, False, False)
    assert (bands.numbers_of_sources, bands.num_classes) == ([2], 0)


def test_separators_are_found_in_pretrained(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    assert "pretrained/mnist" in [model.name for model in load_models([])]
    monkeypatch.chdir(tmp_path)
    assert [model.name for model in load_models([])] == ["mnist", "slakh_like"]  # the published ones
    with pytest.raises(LassError, match="nowhere"):
        load_models(["nowhere"])


def test_settings_change_a_copy_of_the_separator(digits):
    own = digits.separator.sampler
    changed = Settings(sampler="TopK", num_candidates=3, likelihood_weight=2.0).separator_for(digits)
    assert changed.sampler == TopK(3)
    assert changed.likelihood_weight == 2
    assert changed.codec is digits.separator.codec
    assert Settings(sampler="Greedy", num_candidates=3).separator_for(digits).sampler == Greedy()
    assert Settings(num_candidates=5).separator_for(digits).sampler == replace(own, num_candidates=5)
    assert Settings(num_sources=3).separator_for(digits).num_sources == 3
    assert digits.separator.sampler is own
    assert digits.separator.num_sources == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_sources": -1}, "number of sources"),
        ({"sampler": "os.system"}, "no sampler 'os.system'"),
        ({"num_candidates": 0}, "Candidates"),
        ({"num_candidates": 10**9}, "Candidates"),
        ({"likelihood_weight": -1.0}, "likelihood weight"),
        ({"likelihood_weight": float("nan")}, "likelihood weight"),
        ({"seed": -1}, "seed"),
        ({"seed": 10**30}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(LassError, match=words):
        Settings(**options)


def test_every_sampler_is_offered():
    from lass import samplers

    kinds = {name for name in samplers.__all__ if hasattr(getattr(samplers, name), "num_candidates")}
    kinds -= {name for name in samplers.__all__ if getattr(getattr(samplers, name), "_is_protocol", False)}
    assert set(SAMPLERS) == kinds


def test_classes_are_read():
    assert parse_classes(" 3, 8 ", 10) == (3, 8)
    assert parse_classes("", 10) is None
    for text in ("three", "3 10", "-1 2", "3.5", "٣", "9" * 5000):
        with pytest.raises(LassError, match="numbers from 0 to 9"):
            parse_classes(text, 10)


def test_an_image_is_separated_as_by_the_separator(digits, session, repository):
    source, fractions = repository / "docs/mixture.png", []
    outcome = session.separate(source, digits, Settings(seed=3), lambda fraction, what: fractions.append(fraction))
    expected = digits.separator.separate(read_image(source), seed=3)
    estimates = [picture for picture in outcome.pictures if picture.source is not None]
    assert len(estimates) == 2
    for picture, estimate in zip(estimates, expected.estimates, strict=True):
        assert (read_image(picture.path) - estimate).abs().max() <= 0.5 / 255 + 1e-6
    by_name = {picture.path.stem: picture.path for picture in outcome.pictures}
    assert list(by_name) == ["mixture", "estimate-1", "estimate-2", "residual", "entropy"]
    assert torch.equal(read_image(by_name["mixture"]), read_image(source))
    assert Image.open(by_name["entropy"]).size == (7, 7)
    assert fractions[0] == 0
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    with zipfile.ZipFile(outcome.archive) as archive:
        assert {*archive.namelist()} == {*files_in(session.folder)} - {outcome.archive.name}
        assert archive.testzip() is None


def test_candidates_are_distinct_samples_and_the_best_comes_first(digits, session, repository):
    """Every candidate is drawn again by Algorithm 1 with the same seed, and decoded."""
    source = repository / "docs/mixture.png"
    shown = session.separate(source, digits, Settings(), silent).candidates
    separator = digits.separator
    codes, latents = separator.encode(read_image(source)[None])
    candidates = separator.candidates(codes.flatten(1), latents.flatten(2), seed=0)
    sequences = candidates.codes[0].unique(dim=0)
    assert 1 < len(shown) == len(sequences)
    decoded = separator.codec.decode(candidates.codes[0, 0].unflatten(-1, (7, 7))).clamp(0, 1)
    best = torch.stack([read_image(path) for path in shown[0].paths])
    assert min((best - order).abs().max() for order in (decoded, decoded.flip(0))) <= 0.5 / 255 + 1e-6
    assert f"{candidates.scores[0, 0]:.1f}".replace("-", "−") in shown[0].caption


def test_a_drawing_is_separated_and_its_digits_are_the_sources(digits, session):
    outcome = session.separate([ONE, SEVEN], digits, FAST, silent)
    assert [picture.path.stem for picture in outcome.pictures][:3] == ["mixture", "estimate-1", "estimate-2"]
    with pytest.raises(LassError, match="1 digit is drawn for 2 sources: draw 2"):
        session.separate([ONE], digits, FAST, silent)
    with pytest.raises(LassError, match="2 digits are drawn for 3 sources"):
        session.separate([ONE, SEVEN], digits, Settings(num_sources=3), silent)
    with pytest.raises(LassError, match="nothing to separate yet"):
        session.separate([], digits, FAST, silent)


def test_the_number_of_sources_is_determined(digits, session):
    digits = Model(digits.name, digits.separator)
    vars(digits)["numbers_of_sources"] = [2]  # 1 or 2 sources only, to save time
    outcome = session.separate([ONE, SEVEN], digits, replace(FAST, num_sources=0), silent)
    number = int(outcome.summary.split()[0])
    assert sum(picture.source is not None for picture in outcome.pictures) == number
    with pytest.raises(LassError, match="Classes are for a known number"):
        session.separate([ONE, SEVEN], digits, Settings(num_sources=0, classes=(1, 7)), silent)


def test_classes_are_given_to_the_prior(digits, session):
    outcome = session.separate([ONE, SEVEN], digits, Settings(classes=(1, 7)), silent)
    with_classes = [read_image(picture.path) for picture in outcome.pictures[1:3]]
    mixture = read_image(outcome.pictures[0].path)
    expected = digits.separator.separate(mixture, torch.tensor([1, 7])).estimates
    assert (torch.stack(with_classes) - expected).abs().mean() < 0.01
    with pytest.raises(LassError, match="one class for each of 2 sources, got 1"):
        session.separate([ONE, SEVEN], digits, Settings(classes=(1,)), silent)


def test_files_of_the_separation_before_and_of_a_closed_session_are_removed(digits, tmp_path):
    sessions = Sessions(tmp_path, LIMITS)
    first = sessions["a"].separate([ONE, SEVEN], digits, FAST, silent)
    second = sessions["a"].separate([ONE, SEVEN], digits, FAST, silent)
    assert not first.archive.exists()
    assert second.archive.exists()
    upload = tmp_path / "mixture.png"
    Image.open(second.pictures[0].path).save(upload)
    for key in "ab":
        sessions[key].separate(upload, digits, FAST, silent)
    sessions.close("a")
    sessions.close("b")
    sessions.close("never opened")
    sessions.stop("never opened")
    assert list(tmp_path.iterdir()) == [upload]  # other pages may use it
    upload.unlink()
    with pytest.raises(LassError, match=r"mixture.png is no longer there: open it again"):
        sessions["c"].separate(upload, digits, FAST, silent)


def test_the_end_of_all_sessions_waits_for_their_separations(digits, tmp_path):
    sessions, begun, stopped = Sessions(tmp_path, LIMITS), threading.Event(), threading.Event()

    def report(fraction, what):
        begun.set()

    def separate():
        with pytest.raises(Stopped):
            sessions["a"].separate([ONE, SEVEN], digits, Settings(num_candidates=2048), report)
        stopped.set()

    thread = threading.Thread(target=separate)
    thread.start()
    begun.wait()
    sessions.close_all()
    assert list(tmp_path.iterdir()) == []
    thread.join()
    assert stopped.is_set()


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_is_not_fetched_from_its_address(digits, tmp_path, nested):
    """Neither from a field of files, nor in the value of any other control."""
    page = build_page([digits], Sessions(tmp_path, LIMITS))
    (run,) = [function for function in page.fns.values() if function.name == "run"]
    sent = {"path": "https://example.org/mixture.png", "meta": {"_type": "gradio.FileData"}}
    for position in range(len(run.inputs)):
        inputs = [None] * len(run.inputs)
        inputs[position] = {"path": "mixture.png", "more": [sent]} if nested else sent
        with pytest.raises(gr.Error, match="not given by their address"):
            asyncio.run(page.process_api(run, inputs, state=SessionState(page)))


@pytest.mark.parametrize("close", [False, True])
def test_a_separation_is_cancelled_at_the_next_position(digits, session, close):
    reported = []

    def report(fraction, what):
        reported.append(fraction)
        if len(reported) == 3:
            (session.close if close else session.stop)()

    with pytest.raises(Stopped):
        session.separate([ONE, SEVEN], digits, FAST, report)
    assert len(reported) == 3
    assert session.folder.exists() is not close
    assert files_in(session.folder.parent) == []
    if close:
        with pytest.raises(Stopped):
            session.separate([ONE, SEVEN], digits, FAST, report)
    else:
        assert session.separate([ONE, SEVEN], digits, FAST, silent).pictures


def test_stop_before_a_separation_does_not_cancel_it(digits, session):
    session.stop()
    assert session.separate([ONE, SEVEN], digits, FAST, silent).pictures


def test_images_of_other_sizes_are_cropped_and_resized(digits, tmp_path):
    """White in the middle of a wide image: the sides are cropped, the rest is averaged over blocks."""
    pixels = np.zeros((56, 120, 3), np.uint8)
    pixels[14:42, 46:74] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = read_mixture(tmp_path / "wide.png", digits, LIMITS)
    assert image.shape == (1, 28, 28)
    assert image[0, 9:19, 9:19].min() > 0.98  # resampled
    assert max(image[0, :5].max(), image[0, :, :5].max()) < 0.02
    Image.new("RGBA", (28, 28), (255, 255, 255, 0)).save(tmp_path / "transparent.png")
    assert read_mixture(tmp_path / "transparent.png", digits, LIMITS).max() == 0


def test_bad_images_give_one_sentence_without_the_servers_path(digits, session, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (2000, 2000)).save(tmp_path / "large.png")
    (tmp_path / "empty.png").touch()
    session.limits = Limits(pixels=10**6)
    for name, words in {
        "text.png": "text.png is no image that can be read",
        "empty.png": "empty.png is no image that can be read",
        "large.png": "large.png has 2000×2000 pixels: expected at most 1,000,000",
    }.items():
        with pytest.raises(LassError) as error:
            session.separate(tmp_path / name, digits, Settings(), silent)
        assert words in str(error.value)
        assert str(tmp_path) not in str(error.value)
    assert files_in(session.folder) == []


def test_a_song_is_separated_into_its_sources(bands, session, tmp_path):
    sources = write_song(tmp_path / "song.wav", 1.0)
    fractions = []
    outcome = session.separate(
        tmp_path / "song.wav", bands, Settings(), lambda fraction, what: fractions.append(fraction)
    )
    assert [track.name.partition(",")[0] for track in outcome.tracks] == ["song", "bass", "drums", "residual"]
    song, *estimates, residual = (soundfile.read(track.path)[0] for track in outcome.tracks)
    for estimate, source in zip(estimates, sources, strict=True):
        assert np.square(estimate - source).sum() < 0.05 * np.square(source).sum()
    np.testing.assert_allclose(sum(estimates) + residual, song, atol=1e-4)
    assert all(Image.open(track.spectrogram).height == 128 for track in outcome.tracks)
    assert fractions == sorted(fractions)
    assert len(fractions) > 20
    with zipfile.ZipFile(outcome.archive) as archive:
        assert {"bass.wav", "drums.wav", "residual.wav", "spectrograms.png"} <= {*archive.namelist()}


def test_sources_may_be_called_like_files_of_the_page(session, tmp_path):
    separator = band_separator()
    separator.source_names = ["residual", "Song"]
    sources = write_song(tmp_path / "mixture.wav", 1.0)
    outcome = session.separate(tmp_path / "mixture.wav", Model("names", separator), Settings(), silent)
    files = {path.casefold() for track in outcome.tracks for path in (str(track.path), str(track.spectrogram))}
    assert len(files) == 2 * len(outcome.tracks) == 8
    for track, source in zip(outcome.tracks[1:], sources, strict=False):
        assert np.square(soundfile.read(track.path)[0] - source).sum() < 0.05 * np.square(source).sum()
    with zipfile.ZipFile(outcome.archive) as archive:
        assert {"residual.wav", "Song.wav", "residual_.wav"} <= {*archive.namelist()}


def test_bad_songs_give_one_sentence_without_the_servers_path(bands, session, tmp_path):
    write_song(tmp_path / "long.wav", 3.0)
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    (tmp_path / "big.wav").write_bytes(bytes(2 * 10**6))
    session.limits = Limits(megabytes=1, seconds=2.0)
    for name, words in {
        "long.wav": "long.wav lasts 3 s: expected at most 2 s",
        "text.wav": "text.wav is no audio file that can be read",
        "empty.wav": "empty.wav holds no sound",
        "big.wav": "big.wav is larger than 1 MB",
    }.items():
        with pytest.raises(LassError) as error:
            session.separate(tmp_path / name, bands, Settings(), silent)
        assert words in str(error.value)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(LassError, match="cannot be drawn: open a file"):
        session.separate([ONE], bands, Settings(), silent)
    assert files_in(session.folder) == []


def test_without_gradio_the_command_says_what_to_install(monkeypatch, repository):
    monkeypatch.chdir(repository)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "lass.app.page", raising=False)
    with pytest.raises(SystemExit, match=r"lass app needs gradio .*pip install 'lass\[app\]'"):
        main(["app"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999"], "--port must be an integer"),
        (["--max-megabytes", "0"], "max_megabytes"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["--sepp"], "--sepp"),
    ],
)
def test_mistakes_on_the_command_line_end_in_one_sentence(repository, monkeypatch, arguments, words):
    monkeypatch.chdir(repository)
    with pytest.raises(SystemExit, match=words) as error:
        main(["app", *arguments])
    assert "\n" not in str(error.value)
