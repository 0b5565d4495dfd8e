"""Digits drawn by hand become images like those of MNIST."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lass.app.drawing import MAX_POINTS, draw_digit, draw_mixture, parse_drawing
from lass.errors import LassError

SEVEN = [[(0.3, 0.2), (0.7, 0.2), (0.45, 0.85)]]
FOUR = [[(0.4, 0.2), (0.3, 0.55), (0.72, 0.55)], [(0.62, 0.2), (0.6, 0.85)]]


def moved(digit, scale, x, y):
    return [[(scale * px + x, scale * py + y) for px, py in stroke] for stroke in digit]


def spans(image):
    """Height and width of what is drawn, in pixels."""
    drawn = image[0].numpy() > 0.1
    return [np.ptp(np.flatnonzero(drawn.any(axis))) + 1 for axis in (1, 0)]


@pytest.mark.parametrize("digit", [SEVEN, FOUR, moved(SEVEN, 0.4, 0, 0), moved(SEVEN, 0.4, 0.6, 0.5)])
def test_size_and_centre_are_those_of_mnist(digit):
    image = draw_digit(digit, 28, 28)
    assert image.shape == (1, 28, 28)
    assert 0 == image.min() < image.max() == 1
    assert max(spans(image)) in (20, 21)
    positions = torch.arange(28) + 0.5
    for axis in (1, 2):
        mass = image[0].sum(2 - axis)
        assert abs(float(mass @ positions / mass.sum()) - 14) < 0.25


def test_position_size_and_direction_of_the_strokes_do_not_matter():
    expected = draw_digit(FOUR, 28, 28)
    for other in (moved(FOUR, 0.4, 0.5, 0.1), [stroke[::-1] for stroke in FOUR[::-1]]):
        difference = (draw_digit(other, 28, 28) - expected).abs()
        assert difference.max() < 0.3  # coordinates are rounded to an eighth of a pixel
        assert difference.mean() < 0.01


def test_a_vertical_stroke_is_as_wide_as_those_of_mnist():
    image = draw_digit([[(0.5, 0.1), (0.5, 0.9)]], 28, 28)
    assert 2.2 < image[0, 14].sum() < 2.8


def test_a_dot_is_not_enlarged_to_the_whole_image():
    assert max(spans(draw_digit([[(0.2, 0.3)]], 28, 28))) <= 4
    assert draw_digit([[(0.2, 0.3)]], 28, 28).sum() > 3


def test_the_mixture_is_the_mean_of_the_digits():
    mixture = draw_mixture([SEVEN, FOUR], 28, 28)
    torch.testing.assert_close(mixture, (draw_digit(SEVEN, 28, 28) + draw_digit(FOUR, 28, 28)) / 2)


def test_what_the_browser_sends_is_read_and_empty_digits_are_left_out():
    assert parse_drawing(None) == parse_drawing([]) == parse_drawing([[], [[]]]) == []
    assert parse_drawing([[[[0, 0.5], [1, 1]]], [], [[[0.25, 0.25]]]]) == [[[(0, 0.5), (1, 1)]], [[(0.25, 0.25)]]]


@pytest.mark.parametrize(
    "value",
    [
        "text",
        {"a": 1},
        [1],
        [[1]],
        [[[1]]],
        [[[[1]]]],
        [[[[0.1, 0.2, 0.3]]]],
        [[[["0.1", 0.2]]]],
        [[[[True, 0.2]]]],
        [[[[0.5, 1.5]]]],
        [[[[0.5, -1e300]]]],
        [[[[math.nan, 0.5]]]],
        [[[[0.5, None]]]],
        [[]] * 100,
        [[[[0.5, 0.5]] * (MAX_POINTS - 1)]] * 2,
        [[[[0.5, 0.5]]] * (MAX_POINTS + 1)],
    ],
    ids=lambda value: str(value)[:20],
)
def test_anything_else_is_refused(value):
    with pytest.raises(LassError, match="The drawing is not a list of digits"):
        parse_drawing(value)
