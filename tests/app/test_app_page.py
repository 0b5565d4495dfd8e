"""The page in a browser: Chromium, driven by Playwright."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from app_browser import FOUR, THREE, chromium, draw, opened
from band_separator import band_separator, write_song

from lass import read_image
from lass.app.drawing import draw_digit
from lass.app.main import serving
from lass.app.models import Model, load_models
from lass.app.progress import Stopped, Watch
from lass.app.settings import Limits
from lass.samplers import SequentialMonteCarlo

REPOSITORY = Path(__file__).parents[2]
LIMITS = Limits(megabytes=1, seconds=5.0)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address():
    """Address of a page with a separator of digits and two of songs."""
    (digits,) = load_models([str(REPOSITORY / "pretrained/mnist")])
    digits.separator.sampler = SequentialMonteCarlo(32)
    digits.separator.refinement = replace(digits.separator.refinement, steps=5)
    songs = band_separator()
    models = [Model("digits", digits.separator), Model("songs", songs), Model("more songs", songs)]
    with serving(models, LIMITS) as address:
        yield address


def temporary():
    """Folder of the page's files."""
    return Path(os.environ["GRADIO_TEMP_DIR"])


def choose(page, separator, shown):
    """Choose a separator, and wait until the page is ready for it, which shows the text `shown`."""
    choose_only(page, separator)
    page.get_by_text(shown).wait_for()
    page.locator("#lass-separate:enabled").wait_for()


def choose_only(page, separator):
    page.get_by_label("Separator").click()
    page.get_by_role("option", name=separator, exact=True).click()


def choose_songs(page):
    choose(page, "songs", "Song: WAV, FLAC, MP3 or Ogg")


def upload(page, path):
    """Choose a song, and wait until the page has it."""
    page.locator("#lass-song input[type=file]").set_input_files(path)
    page.get_by_label(path.name, exact=True).wait_for()  # while it is uploaded, its name is a text without this label


def shown_image(page, caption, tmp_path):
    """The image above a caption, as the browser loaded it."""
    source = page.locator(f"#lass-figures figure:has(figcaption:text-is('{caption}')) img").get_attribute("src")
    path = tmp_path / "shown.png"
    path.write_bytes(page.request.get(f"{page.url}{source}").body())
    return read_image(path)


def test_two_drawn_digits_are_separated(browser, address, tmp_path):
    """The estimates are the two digits, and the page makes no request to anywhere else."""
    with opened(browser, address) as page:
        draw(page, THREE)
        page.get_by_role("button", name="Digit 2").click()
        draw(page, FOUR)
        page.click("#lass-separate")
        page.get_by_text("estimate 2").wait_for()
        estimates = torch.stack([shown_image(page, f"estimate {number}", tmp_path) for number in (1, 2)])
        sources = torch.stack([draw_digit(digit, 28, 28) for digit in (THREE, FOUR)])
        errors = [(estimates - order).square().mean() for order in (sources, sources.flip(0))]
        assert min(errors) < 0.03 < 0.08 < max(errors)
        assert (shown_image(page, "mixture", tmp_path) - sources.mean(0)).abs().mean() < 0.02

        page.locator(".lass-candidates button").first.click()
        page.get_by_text("candidate, source 2").wait_for()
        assert page.get_by_text("estimate 2").count() == 0
        assert all(url.startswith((address, "data:", "blob:")) for url in page.requested)
        assert page.wrong == []
        with page.expect_download() as download:
            page.click("#lass-download")
        assert download.value.suggested_filename == "separation.zip"
        (folder,) = temporary().glob("session-*")
    until = time.monotonic() + 60
    while folder.exists() and time.monotonic() < until:  # gradio notices the closed page a little later
        time.sleep(0.2)
    assert not folder.exists()


def test_the_canvas_shows_the_mean_and_the_number_of_sources_follows(browser, address):
    with opened(browser, address) as page:
        stroke = [[(0.5, 0.1), (0.5, 0.9)]]
        levels = []
        for number in (1, 2, 3):
            page.get_by_role("button", name=f"Digit {number}").click()
            draw(page, stroke)
            script = "c => c.getContext('2d').getImageData(280, 280, 1, 1).data[3]"
            levels.append(page.locator("#lass-canvas canvas").evaluate(script) / 255)
        np.testing.assert_allclose(levels, [1 / 2, 1, 1], atol=0.02)
        page.get_by_role("radio", name="3").and_(page.locator(":checked")).wait_for()
        page.get_by_role("button", name="Undo").click()
        page.get_by_role("radio", name="2").and_(page.locator(":checked")).wait_for()
        page.get_by_role("button", name="Clear").click()
        page.click("#lass-separate")
        page.get_by_text("There is nothing to separate yet").wait_for()


def test_a_separation_is_stopped(browser, address, monkeypatch):
    """It waits at its second position for the button: the speed of the machine does not matter."""
    stopped, step = threading.Event(), Watch.step

    def waiting_step(watch, fraction, what):
        if fraction > 0:
            watch.stop.wait(60)
        try:
            step(watch, fraction, what)
        except Stopped:
            stopped.set()
            raise

    monkeypatch.setattr(Watch, "step", waiting_step)
    with opened(browser, address) as page:
        draw(page, THREE)
        page.get_by_role("button", name="Digit 2").click()
        draw(page, FOUR)
        page.click("#lass-separate")
        page.get_by_text("Separating").first.wait_for()
        page.click("#lass-stop")
        page.get_by_text("Separating").first.wait_for(state="hidden")
        assert stopped.wait(60)
        assert page.locator("#lass-figures figure").count() == 0
        assert page.wrong == []


def test_a_song_is_separated_and_can_be_played(browser, address, tmp_path):
    write_song(tmp_path / "song.wav", 1.0)
    with opened(browser, address) as page:
        choose_songs(page)
        for hidden in ("Number of sources", "Candidates", "Classes of the sources"):
            assert not page.get_by_text(hidden, exact=True).is_visible()
        upload(page, tmp_path / "song.wav")
        page.click("#lass-separate")
        page.get_by_text("drums", exact=True).wait_for()
        players = page.locator("#lass-figures audio")
        assert players.count() == 4
        page.wait_for_function("[...document.querySelectorAll('audio')].every((each) => each.duration > 0)")
        np.testing.assert_allclose(players.evaluate_all("all => all.map((each) => each.duration)"), 1.0, atol=0.01)
        loaded = "[...document.querySelectorAll('#lass-figures img')].every((each) => each.naturalHeight === 128)"
        page.wait_for_function(loaded)
        assert page.wrong == []
        assert all(url.startswith((address, "data:", "blob:")) for url in page.requested)


def test_a_file_stays_while_the_separator_changes(browser, address, tmp_path):
    """It is opened while the server still prepares the controls of another separator, and is kept by its own kind."""
    write_song(tmp_path / "song.wav", 1.0)
    with opened(browser, address) as page:
        choose_songs(page)
        held = []
        page.route("**/gradio_api/run/predict", lambda route: held.append(route), times=1)
        with page.expect_request("**/gradio_api/run/predict"):
            choose_only(page, "more songs")
        page.locator("#lass-separate:disabled").wait_for()
        upload(page, tmp_path / "song.wav")
        held[0].continue_()
        page.locator("#lass-separate:enabled").wait_for()
        choose(page, "digits", "Draw a digit")
        page.get_by_label("song.wav", exact=True).wait_for(state="hidden")
        choose_songs(page)
        page.get_by_label("song.wav", exact=True).wait_for()
        page.click("#lass-separate")
        page.get_by_text("drums", exact=True).wait_for()
        assert page.wrong == []


def test_bad_files_give_one_sentence(browser, address, tmp_path, capfd):
    (tmp_path / "text.wav").write_text("<b>no audio</b>")
    (tmp_path / "huge.wav").write_bytes(bytes(3 * 10**6))
    write_song(tmp_path / "long.wav", 6.0)
    with opened(browser, address) as page:
        choose_songs(page)
        page.locator("#lass-song input[type=file]").set_input_files(tmp_path / "huge.wav")
        page.get_by_text("exceed the maximum allowed size of").wait_for()
    for name, words in {
        "text.wav": "text.wav is no audio file that can be read",
        "long.wav": "long.wav lasts 6 s: expected at most 5 s",
    }.items():
        with opened(browser, address) as page:
            choose_songs(page)
            upload(page, tmp_path / name)
            page.click("#lass-separate")
            message = page.get_by_text(words)
            message.wait_for()
            assert str(temporary()) not in message.inner_text()
    assert "Traceback" not in capfd.readouterr().err
