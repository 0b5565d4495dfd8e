"""Base classes of datasets of image files: names are listed once, files are opened on access."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from lass.data.files import mapped_array
from lass.data.images.files import opened_image
from lass.data.images.module import ImageDataModule, hold_out
from lass.data.module import Split
from lass.data.sources import SourceDataset, Sources
from lass.errors import LassError, check_number

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".npy")  # lower case
KINDS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # Pillow's modes with at most 8 bits
NUM_NAMED = 3  # number of files named in an error message


class ImageFiles(SourceDataset):
    """Dataset of image files that are read on access; only their names are kept in memory.

    Args:
        folder: Folder to which the names are relative.
        names: File names, as text or as an array of bytes.
        labels: Class of each image, (num_images,).
        size: Height and width to which images are resized and cropped, in pixels; see `read_square`.
    """

    def __init__(
        self, folder: Path, names: Sequence[str] | np.ndarray, labels: Int[Tensor, " num_images"], size: int
    ) -> None:
        # One array instead of a list: reading a Python object writes its reference count, so every forked worker would
        # end up with its own copy of a million names.
        self.names = names if isinstance(names, np.ndarray) else np.array([os.fsencode(name) for name in names])
        self.folder, self.labels, self.size = folder, labels, size

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, indices: list[int]) -> Sources:
        """The images at `indices` as one batch: signals (batch, 3, size, size) in [0, 1].

        Raises:
            LassError: if one of the files cannot be read.
        """
        images = torch.empty(len(indices), 3, self.size, self.size, dtype=torch.uint8)  # empty for a batch of padding
        for image, index in zip(images, indices, strict=True):
            image.copy_(read_square(self.folder / os.fsdecode(self.names[index]), self.size))
        return Sources(images.float() / 255, self.labels[torch.as_tensor(indices, dtype=torch.long)])

    def subset(self, positions: Int[Tensor, " subset"]) -> ImageFiles:
        """See `SourceDataset`."""
        return ImageFiles(self.folder, self.names[positions.numpy()], self.labels[positions], self.size)

    def fingerprint(self) -> str:
        """See `SourceDataset`; hash of file names, sizes in bytes and modification times instead of the content."""
        digest = hashlib.sha256(f"{self.size} {self.names.dtype}".encode())
        digest.update(self.names.tobytes() + self.labels.numpy().tobytes())
        for name in self.names:
            try:
                status = (self.folder / os.fsdecode(name)).stat()
            except OSError as error:
                raise _lost(self.folder / os.fsdecode(name)) from error
            digest.update(f"{status.st_size} {status.st_mtime_ns};".encode())
        return digest.hexdigest()[:16]


class ImageFolderModule(ImageDataModule):
    """Base data module of datasets of image files; subclasses define `has_test_images` and `find`.

    Images are converted to RGB; the shorter side is resized to `size`, then the centre square is cropped.

    Args:
        root: Folder of the dataset.
        size: Height and width in pixels.
        num_test: Number of images, chosen with `split_seed`, that are held out for the test; default a tenth, 5,000 at
            most. Only for datasets without test images of their own.
        kwargs: Arguments of `ImageDataModule`.
    """

    def __init__(self, root: str | Path, size: int = 256, num_test: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        check_number("size", size, at_least=1, whole=True)
        self.root, self.size, self.num_test = Path(root), size, num_test

    def has_test_images(self) -> bool:
        """Whether the dataset has a test split of its own."""
        raise NotImplementedError(f"{type(self).__name__} must define has_test_images()")

    def find(self, official_split: Split) -> ImageFiles:
        """Images of an official split, or all images if `has_test_images` is false."""
        raise NotImplementedError(f"{type(self).__name__} must define find()")

    def read(self, official_split: Split) -> ImageFiles:
        """See `ImageDataModule`; without a test split, `num_test` of all images are held out for the test."""
        if not self.has_test_images():
            files = self.find(official_split)
            held_out, kept = hold_out(len(files), self.num_test, self.split_seed, "num_test")
            return files.subset(held_out if official_split == "test" else kept)
        if self.num_test is not None:
            raise LassError(f"{self.root} has test images of its own: leave out num_test.")
        return self.find(official_split)


def default_root(name: str) -> Path:
    """Folder `name` in the folder given by the environment variable DATA_ROOT, default `data`."""
    return Path(os.environ.get("DATA_ROOT") or "data") / name


def image_names(folder: Path) -> list[str]:
    """Sorted names of the image files directly in a folder, without hidden files (names with a leading dot)."""
    with os.scandir(folder) as entries:
        named = (entry for entry in entries if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."))
        return sorted(entry.name for entry in named if not entry.is_dir())


def some(names: Sequence[str]) -> str:
    """Join the first `NUM_NAMED` names; an ellipsis marks that more follow."""
    return ", ".join([*names[:NUM_NAMED], "…"] if len(names) > NUM_NAMED else names)


def read_square(path: Path, size: int) -> UInt8[Tensor, "3 size size"]:
    """Read an image file as RGB, resize its shorter side to `size`, and crop the centre square.

    Resizing is bilinear with antialiasing. Transparency is dropped, not blended; EXIF orientation is ignored.

    Args:
        path: Path of an image that Pillow reads, or of a `.npy` array of uint8, (3, height, width),
            (1, 3, height, width) or (height, width, 3).
        size: Side of the square in pixels.

    Raises:
        LassError: if the image is missing, cannot be read, or has more than 8 bits per channel.

    Source: torchvision.transforms.Resize and CenterCrop, the usual preparation of ImageNet; Esser et al. 2021
        (arXiv:2012.09841), `taming/data/base.py`, does the same without antialiasing.
    """
    try:
        image = _from_array(path) if path.suffix.lower() == ".npy" else decoded(path)
    except FileNotFoundError as error:
        raise _lost(path) from error
    except OSError as error:
        raise LassError(
            f"{path} is no image that can be read ({error}): get it again, or take it out of the dataset."
        ) from error
    if image.mode not in KINDS:
        raise LassError(f"{path} is an image of the kind {image.mode!r}: expected 8 bits per channel, so convert it.")
    if image.mode == "P":  # Pillow warns if a palette with transparency is not converted via RGBA
        image = image.convert("RGBA")
    resized = transforms.resize(image.convert("RGB"), [size], antialias=True)
    return transforms.pil_to_tensor(transforms.center_crop(resized, [size, size]))


def _lost(path: Path) -> LassError:
    return LassError(f"{path} is missing, though it was listed: put it back and start again.")


def decoded(path: Path) -> Image.Image:
    """Open an image file and decode its pixels; raises the errors of `opened_image`."""
    with opened_image(path) as image:
        image.load()
    return image


def _from_array(path: Path) -> Image.Image:
    array = mapped_array(path)
    shape = array.shape
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and len(array) == 3:
        array = np.moveaxis(array, 0, -1)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise OSError(f"an array of {array.dtype} with shape {shape}; expected uint8, (3, height, width)")
    return Image.fromarray(np.ascontiguousarray(array))
