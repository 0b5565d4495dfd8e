"""Images of digits that were drawn as strokes, scaled and centred as those of MNIST."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from lass.data.mixing import mix
from lass.errors import LassError

Stroke = list[tuple[float, float]]  # points (x, y); the canvas is the unit square
Digit = list[Stroke]

#: Side of the box that a digit of MNIST fills, and width of its strokes, as fractions of the side of the image.
BOX, STROKE_WIDTH = 20 / 28, 2.5 / 28
SMALLEST = 0.15  # of the canvas: a drawing that is smaller than this is not enlarged to fill the box
SUPERSAMPLING = 8  # pixels of the drawing per pixel of the image, in each direction
MAX_DIGITS, MAX_POINTS = 8, 10_000


def parse_drawing(value: object) -> list[Digit]:
    """Check a drawing from the browser and return its digits, without empty ones.

    Args:
        value: List of digits, each a list of strokes, each a list of points [x, y] in [0, 1]; or None.

    Raises:
        LassError: if it is anything else, or longer than a hand would draw.
    """
    digits: list[Digit] = []
    num_points = 0
    for strokes in _items(value or [], MAX_DIGITS):
        digit: Digit = []
        for points in _items(strokes, MAX_POINTS):
            stroke: Stroke = []
            for point in _items(points, MAX_POINTS):
                x, y = map(_coordinate, _items(point, 2, exactly=True))
                stroke.append((x, y))
            num_points += len(stroke)
            if num_points > MAX_POINTS:
                raise _no_drawing()
            if stroke:
                digit.append(stroke)
        if digit:
            digits.append(digit)
    return digits


def draw_mixture(digits: Sequence[Digit], height: int, width: int) -> Float[Tensor, "1 height width"]:
    """Mean of the images of all digits, in [0, 1]: white strokes on black."""
    return mix(torch.stack([draw_digit(digit, height, width) for digit in digits])[None])[0]


def draw_digit(digit: Digit, height: int, width: int) -> Float[Tensor, "1 height width"]:
    """Image of one digit, whose position and size on the canvas do not matter.

    As in MNIST, its longer side fills a box of 20 of 28 pixels, and its centre of mass is in the middle of the image.
    The width of the strokes is that of MNIST, whatever the digit's size was.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (size and centring).
    """
    side = min(height, width) * SUPERSAMPLING
    points = np.concatenate([np.array(stroke) for stroke in digit])
    lowest, highest = points.min(0), points.max(0)
    scale = (BOX - STROKE_WIDTH) * side / max(SMALLEST, *(highest - lowest))
    middle = np.array([width, height]) * SUPERSAMPLING / 2

    def drawn(origin: np.ndarray) -> Image.Image:
        return _rasterised([(np.array(stroke) - origin) * scale + middle for stroke in digit], height, width)

    origin = (lowest + highest) / 2
    pixels = np.asarray(drawn(origin), dtype=np.float64)
    rows, columns = (pixels.sum(axis) for axis in (1, 0))
    mass = [weights @ (np.arange(len(weights)) + 0.5) / weights.sum() for weights in (columns, rows)]
    image = drawn(origin + (np.array(mass) - middle) / scale).resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _rasterised(strokes: Sequence[np.ndarray], height: int, width: int) -> Image.Image:
    """Draw strokes with round ends and corners, in units of the enlarged image."""
    image = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = ImageDraw.Draw(image)
    diameter = STROKE_WIDTH * min(height, width) * SUPERSAMPLING
    for stroke in strokes:
        pen.line([tuple(point) for point in stroke], fill=255, width=round(diameter))
        for x, y in stroke:
            pen.ellipse([x - diameter / 2, y - diameter / 2, x + diameter / 2, y + diameter / 2], fill=255)
    return image


def _items(value: object, most: int, exactly: bool = False) -> list:
    if not isinstance(value, list) or len(value) > most or (exactly and len(value) != most):
        raise _no_drawing()
    return value


def _coordinate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 or math.isnan(value):
        raise _no_drawing()
    return float(value)


def _no_drawing() -> LassError:
    return LassError(
        f"The drawing is not a list of digits, strokes and points in [0, 1], or has more than {MAX_DIGITS} digits or "
        f"{MAX_POINTS} points: clear it and draw again."
    )
