"""Make the screenshots of the page in docs/: `python tests/app_screenshots.py` from the root of the repository.

The digits are drawn by hand and separated by pretrained/mnist. The song is synthetic, and its separator made by hand
(band_separator.py), as there is no pretrained one for songs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from app_browser import FOUR, THREE, chromium, draw, opened
from band_separator import band_separator, write_song
from PIL import Image

from lass.app.main import serving
from lass.app.models import Model, load_models
from lass.app.settings import Limits

DOCS = Path("docs")
NUM_COLOURS = 256  # of the palette, which keeps the files small


def save(page, path):
    """Save the whole page with a palette."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # fading of the progress bar
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:
        image.convert("RGB").quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def digits(browser):
    with serving(load_models(["pretrained/mnist"]), Limits()) as address, opened(browser, address, 1120, 860) as page:
        draw(page, THREE)
        page.get_by_role("button", name="Digit 2").click()
        draw(page, FOUR)
        page.click("#lass-separate")
        page.get_by_text("estimate 2").wait_for()
        save(page, DOCS / "app-digits.png")


def song(browser):
    models = [Model("slakh", band_separator())]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(models, Limits()) as address,
        opened(browser, address, 1120, 860) as page,
    ):
        write_song(Path(folder) / "song.wav", 6.0)
        page.locator("#lass-song input[type=file]").set_input_files(Path(folder) / "song.wav")
        page.get_by_label("song.wav", exact=True).wait_for()
        page.click("#lass-separate")
        page.get_by_text("drums", exact=True).wait_for()
        page.wait_for_function("[...document.querySelectorAll('audio')].every((each) => each.duration > 0)")
        save(page, DOCS / "app-song.png")


if __name__ == "__main__":
    with chromium() as browser:
        digits(browser)
        song(browser)
