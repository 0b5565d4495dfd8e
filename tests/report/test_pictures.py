"""Figures with arbitrary names: the names are shown literally, and a failing figure does not lose results."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lass.report.figures import LONGEST_LABEL, image_grid, literal, picture

NAMES = ["Ba$$in", "$a^b^c$", "$\\frac{", "a_b%c&d", "😀", "עברית", "x" * 200, "two\nlines", "tab\tnul\0"]
NAMES.append(os.fsdecode(b"\xff\xfe"))  # undecodable file name


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are_written(tmp_path, name):
    def make():
        return image_grid({name: torch.rand(1, 1, 4, 4)}, [name], name)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture(make, tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").width > 100
    (cell,) = (figure := make()).axes
    shown = [cell.get_title(), cell.get_ylabel(), figure.get_suptitle()]
    if "$" in name:
        assert shown == [name] * 3
    assert shown == [literal(name, LONGEST_LABEL)] * 2 + [literal(name)]


def test_long_lines_lose_their_middle_and_control_characters_become_question_marks():
    assert literal("abcdefghij", 6) == "ab…hij"
    assert literal("abcdef\nabcdefg", 6) == "abcdef\nab…efg"
    assert literal("a\tb\0\udcff") == "a?b??"


@pytest.mark.parametrize("failing", ["make", "save"])
def test_a_picture_that_fails_is_one_warning(tmp_path, failing):
    def make():
        if failing == "make":
            raise RuntimeError("two\nlines")
        figure = Figure()
        figure.text(0, 0, "$a^b^c$")  # the invalid formula raises when the figure is drawn
        return figure

    (tmp_path / "picture.png").write_text("of an earlier run")
    with pytest.warns(UserWarning, match=r"picture.png could not be made \(.*\); all else is complete") as caught:
        assert not picture(make, tmp_path / "picture.png")
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert not list(tmp_path.iterdir())  # neither the earlier figure nor a partial new one


def test_a_picture_can_be_stopped(tmp_path):
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        picture(stopped, tmp_path / "picture.png")
