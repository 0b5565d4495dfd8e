"""Image files in and out."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from lass.artifacts import atomic_write
from lass.errors import LassError

MODES = {1: "L", 3: "RGB"}  # what Pillow calls 8-bit images of so many channels
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # kinds that RGBA holds without loss
NAMES = {1: "grey", 3: "colour"}
MAX_PIXELS = 89_478_485  # Pillow warns of images with more: a small file can claim any size


@contextlib.contextmanager
def opened_image(path: str | Path) -> Iterator[Image.Image]:
    """An image file whose header has been read, and whose pixels are decoded in the body.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: with the reason in one line, if the file is damaged, is no image, or claims over 89 million pixels.
    """
    try:
        with Image.open(path) as image:
            if image.format == "EPS":
                raise OSError("it is a PostScript program, which is not run")  # by Ghostscript, as Pillow would
            if image.width * image.height > MAX_PIXELS:
                raise OSError(f"it claims to have {image.height}×{image.width} pixels")
            image.filename = ""  # Pillow would map raw pixels into memory: wrong for TIFF files that are to be turned
            yield image
    except (FileNotFoundError, LassError):
        raise
    except Exception as error:  # of damaged files, Pillow raises nearly every built-in exception
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def read_image(path: str | Path, image_shape: Sequence[int] | None = None) -> Float[Tensor, "channels height width"]:
    """An image file as numbers in [0, 1].

    The orientation that a camera noted in the file (EXIF) is followed, as browsers do. Of a file with several images,
    an animation for example, the first is read, with a warning.

    Args:
        path: a PNG, or anything else that Pillow reads.
        image_shape: the (channels, height, width) it must have; default: as it is, in grey if it is grey.

    Raises:
        LassError: if the file is missing, no image, or would have to be changed to have that shape.
    """
    path = Path(path)
    if image_shape is not None and image_shape[0] not in MODES:
        raise LassError(f"Image files have 1 or 3 channels, but an image of {image_shape[0]} channels is expected.")
    several = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: an image is read, or the error says why not
            with opened_image(path) as image:
                if image_shape is None or sorted(image.size) == sorted(image_shape[1:]):  # others are not even decoded
                    several = getattr(image, "is_animated", False)
                    image = ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise LassError(f"There is no file {path}: name an image, or a folder of images.") from error
    except OSError as error:
        raise LassError(
            f"{path} is no image that can be read ({error}): expected an undamaged image, so save it again as a PNG "
            "without metadata."
        ) from error
    if several:
        warnings.warn(f"{path} holds several images: only the first one is taken.", stacklevel=2)
    if image_shape is not None and (image.height, image.width) != tuple(image_shape[1:]):
        height, width = image_shape[1:]
        raise LassError(
            f"{path} has {image.height}×{image.width} pixels, but this separator is for {height}×{width}: resize it."
        )
    if image.mode in ("P", "PA"):  # Pillow warns when colours that may be transparent are converted at once
        image = image.convert("RGBA")
    if image_shape is None:
        image_shape = (1 if _is_lossless(image, "L") else 3, image.height, image.width)
    channels, height, width = image_shape
    if not _is_lossless(image, MODES[channels]):
        raise LassError(
            f"{path} is an image of the kind {image.mode!r}, not just opaque 8-bit {NAMES[channels]}: convert it."
        )
    pixels = np.asarray(image.convert(MODES[channels]))
    return torch.tensor(pixels).view(height, width, channels).movedim(-1, 0) / 255


def write_image(path: str | Path, image: Float[Tensor, "channels height width"]) -> None:
    """Write an image in [0, 1] as an 8-bit PNG, whole or not at all; values outside are clipped."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().movedim(0, -1).squeeze(-1)
    with atomic_write(path) as temporary:
        Image.fromarray(pixels.numpy()).save(temporary, format="PNG")


def _is_lossless(image: Image.Image, mode: str) -> bool:
    """Whether converting to a mode loses nothing: grey pixels saved as colour, or an opaque alpha channel, are fine."""
    if image.mode not in EIGHT_BIT:
        return False
    full = np.asarray(image.convert("RGBA"))
    return np.array_equal(np.asarray(image.convert(mode).convert("RGBA")), full)
