"""CelebA in its official layout: aligned faces, cropped, resized and cached as one memory-mapped array per split."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_info
from torchvision import datasets
from tqdm.auto import tqdm

from lass.artifacts import atomic_write
from lass.data.files import mapped_array, read_text
from lass.data.images.folder import decoded
from lass.data.images.module import ImageDataModule
from lass.data.module import Split
from lass.data.sources import ImageSources, MirroredSources
from lass.errors import LassError, check_number, path_component

FOLDER, IMAGES, OFFICIAL_PARTITION = "celeba", "img_align_celeba", "list_eval_partition.txt"
KAGGLE_HEADER = ["image_id", "partition"]
PARTS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}  # split numbers in a partition file
CROP_SHARE = 140 / 178  # side of the crop as a fraction of the width: keeps the face, removes the background
NUM_NAMED = 3  # number of bad images named in an error message


class CelebA(ImageDataModule):
    """CelebA, colour images of faces in the official splits: 162,770 training, 19,867 validation, 19,962 test images.

    Each image is centre-cropped to a square, 140/178 of its width, and resized (bilinear with antialiasing). This is
    done once; the resized images are stored in `cache` and memory-mapped.

    Kaggle's archive, unpacked to `celeba/`, is supported: its images are one folder deeper, in
    `img_align_celeba/img_align_celeba`, and its list of splits is `list_eval_partition.csv`.

    Args:
        root: Folder that contains `celeba/img_align_celeba`; default the environment variable DATA_ROOT. If neither is
            set, torchvision downloads to `data`.
        size: Height and width of the resized images, in pixels.
        partition: Name of the file in `celeba/` that assigns images to splits, with lines `000001.jpg 0` or
            `000001.jpg,0`; 0 is training, 1 validation, 2 test. If it is missing, the file with suffix `.csv` is read.
        mirror: Add the horizontal mirror images to the training images.
        skip_bad_images: Leave out missing, damaged or grey images instead of raising an error.
        cache: Folder of the resized images.
        kwargs: Arguments of `ImageDataModule`.

    Source: Liu et al. 2015 (arXiv:1411.7766) for the data; LASS (arXiv:2301.08562), section "Image Source Separation".
    """

    official_splits: ClassVar[tuple[Split, ...]] = ("train", "validation", "test")

    def __init__(
        self,
        root: str | None = None,
        size: int = 32,
        partition: str = OFFICIAL_PARTITION,
        mirror: bool = False,
        skip_bad_images: bool = False,
        cache: str = "data/cache",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        given = root or os.environ.get("DATA_ROOT")
        self.root, self.may_download = Path(given or "data"), not given
        check_number("size", size, at_least=1, whole=True)
        self.size, self.partition, self.mirror, self.skip_bad_images = size, partition, mirror, skip_bad_images
        self.cache = Path(cache)

    def prepare_data(self) -> None:
        """Download if needed and cache the resized images of the splits in use; Lightning calls this on one process."""
        separating = self.trainer is not None and self.trainer.state.fn == "predict"
        parts: tuple[Split, ...] = (self.predict_split,) if separating else ("train", "validation")
        if all(self._cached(part).exists() for part in parts):
            return
        if self.may_download and not (self._partition_file.is_file() and self._folder.is_dir()):
            self._download()
        names = self._names()
        for part in parts:
            if names[part] and not self._cached(part).exists():
                self._shrink(part, names[part])

    def _download(self) -> None:
        try:
            datasets.CelebA(str(self.root), download=True)
        except Exception as error:  # e.g. Google Drive's quota: gdown and torchvision raise many kinds of exceptions
            reason = " ".join(str(error).split())
            raise LassError(
                f"CelebA could not be downloaded to {self.root.resolve()} ({reason}): get img_align_celeba.zip and "
                f"{OFFICIAL_PARTITION} from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpack the first to "
                f"{FOLDER}/{IMAGES}/ and put the second beside it, both in one folder, and set DATA_ROOT to it."
            ) from error

    def read(self, official_split: Split) -> ImageSources:
        """Memory-map the resized images of an official split, creating the cache if it is missing."""
        path, names = self._cached(official_split), self._names()[official_split]
        if not names:
            raise LassError(
                f"{self._partition_file} has no {official_split} images (no line that ends in "
                f"{PARTS[official_split]}): name another file with --data.partition."
            )
        if not path.exists():
            self._shrink(official_split, names)
        if left_out := self._left_out(official_split):
            rank_zero_info(
                f"{len(left_out)} {official_split} images are left out ({_some(left_out, ', ')}); all are named in "
                f"{self._left_out_file(official_split)}."
            )
            if official_split == "test" and self.mixtures is not None:
                raise LassError(
                    f"Test images are left out, so the numbers in {self.mixtures} would mean others: draw the mixtures "
                    "with --data.mixtures=null."
                )
        try:
            images = mapped_array(path, "c")  # copy on write, because torch requires tensors to be writable
            expected = (len(names) - len(left_out), 3, self.size, self.size)
            if images.dtype != np.uint8 or images.shape != expected:
                raise OSError(f"an array of {images.dtype} with shape {images.shape}; expected uint8, {expected}")
        except OSError as error:
            raise LassError(f"{path} does not hold these images ({error}): delete it, and it is made again.") from error
        sources = MirroredSources if self.mirror and official_split == "train" else ImageSources
        return sources(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.long))

    @property
    def _partition_file(self) -> Path:
        path = self.root / FOLDER / self.partition
        table = path.with_suffix(".csv")
        return table if table.is_file() and not path.is_file() else path

    @property
    def _folder(self) -> Path:
        folder = self.root / FOLDER / IMAGES
        return folder / IMAGES if (folder / IMAGES).is_dir() else folder

    def _left_out_file(self, part: Split) -> Path:
        return self._cached(part).with_suffix(".left-out.txt")

    def _left_out(self, part: Split) -> list[str]:
        path = self._left_out_file(part)
        advice = "delete it and the array of the same name, and both are made again"
        return read_text(path, "list of images", advice).split() if path.is_file() else []

    def _names(self) -> dict[Split, list[str]]:
        """Image file names of each split, in list order."""
        path = self._partition_file
        if not path.is_file():
            raise LassError(
                f"There is no list of the parts of CelebA at {path.resolve()}: set DATA_ROOT to the folder that holds "
                f"{FOLDER}/{IMAGES} and {FOLDER}/{OFFICIAL_PARTITION}, unset it to download to `data`, or name another "
                "list with --data.partition."
            )
        names: dict[Split, list[str]] = {part: [] for part in PARTS}
        part_of = {str(number): part for part, number in PARTS.items()}
        text = read_text(path, "list of the parts of CelebA", "expected lines like `000001.jpg 0`")
        for number, line in enumerate(text.splitlines(), 1):
            words = line.replace(",", " ").split()
            if not words or (number == 1 and words == KAGGLE_HEADER):
                continue
            if len(words) != 2 or words[1] not in part_of:
                raise LassError(
                    f"Line {number} of {path} is {line!r:.80}: expected a file name and 0 (training), "
                    "1 (validation) or 2 (test)."
                )
            names[part_of[words[1]]].append(path_component(words[0], path))
        times = Counter(name for part in names.values() for name in part)
        if twice := [name for name in times if times[name] > 1]:
            raise LassError(f"{path} names images more than once ({_some(twice, ', ')}): expected each in one part.")
        return names

    def _cached(self, part: Split) -> Path:
        # The hash in the name covers every setting that changes the images.
        try:
            text = self._partition_file.read_bytes()
        except OSError:  # `_names` raises the error
            text = b""
        facts = repr((str(self.root.resolve()), CROP_SHARE, self.skip_bad_images)).encode()
        return self.cache / f"celeba-{part}-{self.size}-{hashlib.sha256(facts + text).hexdigest()[:12]}.npy"

    def _shrink(self, part: Split, names: Sequence[str]) -> None:
        folder = self._folder
        if not folder.is_dir():
            raise LassError(
                f"There are no images of CelebA at {folder.resolve()}: unpack img_align_celeba.zip there, or set "
                f"DATA_ROOT to the folder that holds {FOLDER}/{IMAGES}."
            )
        self._left_out_file(part).unlink(missing_ok=True)
        bad: dict[str, str] = {}  # reason by file name
        # Written sequentially: on a full disk, a write to memory-mapped pages would kill the process.
        with atomic_write(self._cached(part)) as temporary, open(temporary, "wb") as file:
            self._write_header(file, len(names))
            with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while it decodes and resizes
                shrunk = pool.map(lambda name: shrink(folder / name, self.size), names)
                progress = tqdm(shrunk, f"Resizing {part} faces once", len(names), unit="image")
                for name, image in zip(names, progress, strict=True):
                    if isinstance(image, str):
                        bad[name] = image
                    else:
                        file.write(image.tobytes())
            if bad and not self.skip_bad_images:
                named = _some([f"{name} {reason}" for name, reason in bad.items()], "; ")
                raise LassError(
                    f"{len(bad)} of {len(names)} {part} images in {folder} cannot be used ({named}): repair them, or "
                    "leave them out with --data.skip_bad_images=true."
                )
            if len(bad) == len(names):
                reason = next(iter(bad.values()))
                raise LassError(f"None of the {len(names)} {part} images in {folder} can be used: {reason}.")
            if bad:
                file.seek(0)
                self._write_header(file, len(names) - len(bad))
                with atomic_write(self._left_out_file(part)) as listed:
                    listed.write_text("".join(f"{name}\n" for name in bad), encoding="utf-8")

    def _write_header(self, file: BinaryIO, num_images: int) -> None:
        """Write the `.npy` header. Its length is independent of `num_images`: NumPy reserves room for 21 digits."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, 3, self.size, self.size)}
        np.lib.format.write_array_header_1_0(file, header)


def _some(names: Sequence[str], separator: str) -> str:
    """Join the first `NUM_NAMED` names; an ellipsis marks that more follow."""
    return separator.join([*names[:NUM_NAMED], "…"] if len(names) > NUM_NAMED else names)


def shrink(path: Path, size: int) -> np.ndarray | str:
    """Centre-crop and resize an image file to (3, size, size) bytes; returns the reason as text on failure."""
    try:
        image = decoded(path)
    except FileNotFoundError:
        return "is missing"
    except OSError:
        return "is damaged or no image"
    if image.mode != "RGB":
        return f"is {'grey' if image.mode in ('1', 'L', 'LA') else 'of the kind ' + image.mode}, not RGB"
    side = round(image.width * CROP_SHARE)
    if side > image.height:
        return f"has {image.height}×{image.width} pixels, less than the square to be cropped"
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    square = image.crop((left, top, left + side, top + side))
    small = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.moveaxis(np.asarray(small), -1, 0)
