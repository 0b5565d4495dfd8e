"""Reading and writing of image files."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from lass.artifacts import atomic_write
from lass.errors import LassError

MODES = {1: "L", 3: "RGB"}  # Pillow's mode of 8-bit images by number of channels
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # Pillow's modes that convert to RGBA without loss
NAMES = {1: "grey", 3: "colour"}
MAX_PIXELS = 89_478_485  # Pillow's own warning threshold; a small file can claim any size


@contextlib.contextmanager
def opened_image(path: str | Path) -> Iterator[Image.Image]:
    """Context manager that opens an image file and reads its header; the body decodes the pixels.

    Raises:
        FileNotFoundError: if the file does not exist.
        OSError: if the file is damaged, is not an image, or claims over 89 million pixels; the reason is one line.
    """
    try:
        with Image.open(path) as image:
            if image.format == "EPS":
                raise OSError("it is a PostScript program, which is not run")  # Pillow would run it with Ghostscript
            if image.width * image.height > MAX_PIXELS:
                raise OSError(f"it claims to have {image.height}×{image.width} pixels")
            image.filename = ""  # stops Pillow from memory-mapping raw pixels, which is wrong for rotated TIFF files
            yield image
    except (FileNotFoundError, LassError):
        raise
    except Exception as error:  # Pillow raises many kinds of built-in exceptions for damaged files
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def read_image(
    path: str | Path, image_shape: Sequence[int] | None = None, fit: Literal["crop", "pad"] | None = None
) -> Float[Tensor, "channels height width"]:
    """Read an image file as float32 in [0, 1].

    The EXIF orientation is applied, as in browsers. From a file with several images, such as an animation, the first
    image is read, with a warning.

    Args:
        path: Path of an image in PNG or another format that Pillow reads.
        image_shape: Required (channels, height, width); default the shape of the image, with one channel if it is grey.
        fit: How to convert an image without `image_shape`, instead of refusing it: "crop" cuts off what exceeds the
            aspect ratio at both ends, "pad" adds black at both ends, and both resize the result. Transparent pixels are
            composited on black, as black adds nothing to a mixture; 16 bits become 8, and colours luminance.

    Raises:
        LassError: if the file is missing, is not an image, or does not have `image_shape` without loss and `fit` is
            None, or cannot be converted.
    """
    path = Path(path)
    if image_shape is not None and image_shape[0] not in MODES:
        raise LassError(f"Image files have 1 or 3 channels, but an image of {image_shape[0]} channels is expected.")
    several = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings: every failure raises an error below
            with opened_image(path) as image:
                if image_shape is None or fit or sorted(image.size) == sorted(image_shape[1:]):  # else skip decoding
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
    if image_shape is not None and fit is not None:
        image = _fitted(path, image, MODES[image_shape[0]], (image_shape[2], image_shape[1]), fit)
    if image_shape is not None and (image.height, image.width) != tuple(image_shape[1:]):
        height, width = image_shape[1:]
        raise LassError(
            f"{path} has {image.height}×{image.width} pixels, but this separator is for {height}×{width}: resize "
            "it, or let --fit crop or --fit pad do it."
        )
    if image.mode in ("P", "PA"):  # Pillow warns if a palette with transparency is not converted via RGBA
        image = image.convert("RGBA")
    if image_shape is None:
        image_shape = (1 if _is_lossless(image, "L") else 3, image.height, image.width)
    channels, height, width = image_shape
    if not _is_lossless(image, MODES[channels]):
        raise LassError(
            f"{path} is an image of the kind {image.mode!r}, not just opaque 8-bit {NAMES[channels]}: convert it, or "
            "let --fit crop or --fit pad do it."
        )
    pixels = np.asarray(image.convert(MODES[channels]))
    return torch.tensor(pixels).view(height, width, channels).movedim(-1, 0) / 255


def write_image(path: str | Path, image: Float[Tensor, "channels height width"]) -> None:
    """Write an image in [0, 1] atomically as an 8-bit PNG; values outside this range are clipped."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().movedim(0, -1).squeeze(-1)
    with atomic_write(path) as temporary:
        Image.fromarray(pixels.numpy()).save(temporary, format="PNG")


def _fitted(
    path: Path, image: Image.Image, mode: str, size: tuple[int, int], fit: Literal["crop", "pad"]
) -> Image.Image:
    """Convert an image to a mode ("L" or "RGB") and a size (width, height); see `read_image`."""
    if image.mode.startswith("I;16"):  # grey of 16 bits; Pillow's own conversion clips it
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    elif image.mode not in (*EIGHT_BIT, "CMYK", "YCbCr", "HSV"):  # numbers of unknown range or meaning
        raise LassError(f"{path} is an image of the kind {image.mode!r}, which has no conversion: save it as a PNG.")
    resize = {"crop": ImageOps.fit, "pad": ImageOps.pad}[fit]
    try:
        return resize(image.convert(mode), size, Image.Resampling.LANCZOS)
    except ValueError as error:  # resized, it would be less than one pixel wide
        raise LassError(
            f"{path} has {image.height}×{image.width} pixels, too narrow to be padded to {size[1]}×{size[0]}: use "
            "--fit crop."
        ) from error


def _is_lossless(image: Image.Image, mode: str) -> bool:
    """Whether conversion to `mode` is lossless, e.g. for grey pixels stored as colour or an opaque alpha channel."""
    if image.mode not in EIGHT_BIT:
        return False
    full = np.asarray(image.convert("RGBA"))
    return np.array_equal(np.asarray(image.convert(mode).convert("RGBA")), full)
