"""Chromium for the tests of the page, and what a hand does in it."""

from __future__ import annotations

import math
import shutil
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
TIMEOUT = 120_000  # ms


@contextmanager
def chromium():
    """The browser of the system; a failure says how to install it."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise RuntimeError("The tests of the page need Chromium: apt-get install chromium (.ci/run does so).")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser, address, width=1180, height=860):
    """A page of the browser, with the addresses that it requests in `page.requested` and its errors in `page.wrong`."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(TIMEOUT)
    page.requested, page.wrong = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    try:
        page.goto(address)
        page.locator("#lass-separate").wait_for()
        page.locator("#lass-figures .lass-figures").wait_for(state="attached")
        yield page
    finally:
        page.close()


def draw(page, strokes):
    """Draw strokes, lists of points in [0, 1], with the mouse on the canvas."""
    canvas = page.locator("#lass-canvas canvas")
    canvas.hover()  # waits until the layout does not move
    box = canvas.bounding_box()
    for stroke in strokes:
        first, *rest = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*first)
        page.mouse.down()
        for point in rest:
            page.mouse.move(*point)
        page.mouse.up()


def arc(x, y, radius_x, radius_y, start, stop, num=14):
    """Points of an arc, from `start` to `stop` in degrees, clockwise."""
    angles = [math.radians(start + (stop - start) * i / num) for i in range(num + 1)]
    return [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]


THREE = [arc(0.47, 0.32, 0.18, 0.15, 200, 450) + arc(0.47, 0.64, 0.2, 0.17, -90, 160)]
FOUR = [[(0.4, 0.2), (0.3, 0.55), (0.72, 0.55)], [(0.62, 0.2), (0.6, 0.85)]]
