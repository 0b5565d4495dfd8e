"""CelebA in its official layout: aligned faces, cropped, made small and kept as one memory-mapped array per part."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from pytorch_lightning.utilities import rank_zero_info
from torchvision import datasets
from tqdm.auto import tqdm

from lass.artifacts import written_whole
from lass.data.image_files import UNREADABLE
from lass.data.images import ImageDataModule
from lass.data.module import Split
from lass.data.sources import ImageSources, MirroredSources
from lass.errors import LassError

FOLDER, IMAGES, OFFICIAL_PARTITION = "celeba", "img_align_celeba", "list_eval_partition.txt"
PARTS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}  # numbers in a partition file
CROP_SHARE = 140 / 178  # of the width: the face, without what is around it
NUM_NAMED = 3  # bad images in an error


class CelebA(ImageDataModule):
    """Faces in colour, in the official parts: 162,770 for training, 19,867 for validation, 19,962 for the test.

    The square in the middle, 140/178 of the width, is resized (bilinear with antialiasing). That is done once; the
    small images lie in `cache`, from where they are mapped into memory.

    Args:
        root: folder that holds `celeba/img_align_celeba`; default the variable DATA_ROOT. Where neither is given,
            torchvision downloads to `data`.
        size: height and width in pixels.
        partition: file in `celeba/` with lines `000001.jpg 0`; 0 is training, 1 validation, 2 test.
        mirror: the mirror images of the training images are training images too.
        skip_bad_images: leave out images that are missing, damaged or grey instead of stopping.
        cache: folder for the small images.
        kwargs: the arguments of ImageDataModule.

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
        self.size, self.partition, self.mirror, self.skip_bad_images = size, partition, mirror, skip_bad_images
        self.cache = Path(cache)

    def prepare_data(self) -> None:
        """Download where that is wanted, and make the small images that the command needs; on one process only."""
        separating = self.trainer is not None and self.trainer.state.fn == "predict"
        parts: tuple[Split, ...] = (self.separate,) if separating else ("train", "validation")
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
        except Exception as error:  # Google Drive's limits, a bad archive: gdown and torchvision raise what they like
            reason = " ".join(str(error).split())
            raise LassError(
                f"CelebA could not be downloaded to {self.root.resolve()} ({reason}): get img_align_celeba.zip and "
                f"{OFFICIAL_PARTITION} from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpack the first to "
                f"{FOLDER}/{IMAGES}/ and put the second beside it, both in one folder, and set DATA_ROOT to it."
            ) from error

    def identity(self, part: Split) -> str:
        """See ImageDataModule: what the small images were made from."""
        mirrored = "-mirrored" if self.mirror and part == "train" else ""
        return self._cached(part).stem + mirrored

    def read(self, official_split: Split) -> ImageSources:
        """The small images of a part."""
        path = self._cached(official_split)
        if not path.exists():
            names = self._names()[official_split]
            if not names:
                raise LassError(
                    f"{self._partition_file} has no {official_split} images (no line that ends in "
                    f"{PARTS[official_split]}): name another file with --data.partition."
                )
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
            # Copy on write: as a tensor it would otherwise have to be writable.
            images = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise LassError(f"{path} holds no images ({error}): delete it, and it is made again.") from error
        sources = MirroredSources if self.mirror and official_split == "train" else ImageSources
        return sources(images, torch.zeros(len(images), dtype=torch.long))

    @property
    def _partition_file(self) -> Path:
        return self.root / FOLDER / self.partition

    @property
    def _folder(self) -> Path:
        return self.root / FOLDER / IMAGES

    def _left_out_file(self, part: Split) -> Path:
        return self._cached(part).with_suffix(".left-out.txt")

    def _left_out(self, part: Split) -> list[str]:
        path = self._left_out_file(part)
        return path.read_text().split() if path.is_file() else []

    def _names(self) -> dict[Split, list[str]]:
        """File names of each part."""
        try:
            lines = self._partition_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LassError(
                f"There is no list of the parts of CelebA at {self._partition_file.resolve()}: set DATA_ROOT to the "
                f"folder that holds {FOLDER}/{IMAGES} and {FOLDER}/{OFFICIAL_PARTITION}, unset it to download to "
                "`data`, or name another list with --data.partition."
            ) from error
        names: dict[Split, list[str]] = {part: [] for part in PARTS}
        part_of = {str(number): part for part, number in PARTS.items()}
        for number, line in enumerate(lines, 1):
            words = line.split()
            if len(words) != 2 or words[1] not in part_of:
                raise LassError(
                    f"Line {number} of {self._partition_file} is {line!r}: expected a file name and 0 (training), "
                    "1 (validation) or 2 (test)."
                )
            names[part_of[words[1]]].append(words[0])
        return names

    def _cached(self, part: Split) -> Path:
        # The name tells apart whatever would give other images.
        text = self._partition_file.read_bytes() if self._partition_file.is_file() else b""
        facts = repr((str(self.root.resolve()), CROP_SHARE, self.skip_bad_images)).encode()
        return self.cache / f"celeba-{part}-{self.size}-{hashlib.sha256(facts + text).hexdigest()[:12]}.npy"

    def _shrink(self, part: Split, names: Sequence[str]) -> None:
        folder = self._folder
        if not folder.is_dir():
            raise LassError(
                f"There are no images of CelebA at {folder.resolve()}: unpack img_align_celeba.zip there, or set "
                f"DATA_ROOT to the folder that holds {FOLDER}/{IMAGES}."
            )
        with written_whole(self._cached(part)) as temporary:
            shape = (len(names), 3, self.size, self.size)
            images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            bad = []
            with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without Python's lock
                shrunk = pool.map(lambda name: shrink(folder / name, self.size), names)
                for i, image in enumerate(tqdm(shrunk, f"Resizing {part} faces once", len(names), unit="image")):
                    if isinstance(image, str):
                        bad.append((i, image))
                    else:
                        images[i] = image
            if bad and not self.skip_bad_images:
                named = _some([f"{names[i]} {reason}" for i, reason in bad], "; ")
                raise LassError(
                    f"{len(bad)} of {len(names)} {part} images in {folder} cannot be used ({named}): repair them, or "
                    "leave them out with --data.skip_bad_images=true."
                )
            if len(bad) == len(names):
                raise LassError(f"None of the {len(names)} {part} images in {folder} can be used: {bad[0][1]}.")
            if bad:
                kept = np.delete(images, [i for i, _ in bad], axis=0)
                del images  # the file is written anew
                with open(temporary, "wb") as file:
                    np.save(file, kept)
                with written_whole(self._left_out_file(part)) as listed:
                    listed.write_text("".join(f"{names[i]}\n" for i, _ in bad))


def _some(names: Sequence[str], separator: str) -> str:
    """The first few, and whether there are more."""
    return separator.join([*names[:NUM_NAMED], "…"] if len(names) > NUM_NAMED else names)


def shrink(path: Path, size: int) -> np.ndarray | str:
    """The middle of an image file as (3, size, size) bytes; or why that is impossible."""
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        return "is missing"
    except UNREADABLE:
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
