"""CelebA-HQ from a folder of images, split by the list files used to train the published models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from lass.data.files import read_text
from lass.data.images.folder import ImageFiles, ImageFolderModule, default_root, image_names, some
from lass.data.module import Split
from lass.errors import LassError, path_component

LISTS: dict[Split, str] = {"train": "celebahqtrain.txt", "test": "celebahqvalidation.txt"}
WHERE = (
    "https://github.com/tkarras/progressive_growing_of_gans (or https://github.com/switchablenorms/CelebAMask-HQ, "
    "CelebA-HQ-img)"
)
WHERE_LISTS = "https://github.com/CompVis/taming-transformers, folder data"


class CelebAHQ(ImageFolderModule):
    """CelebA-HQ, 30,000 colour images of faces, 256×256 pixels.

    The test split is the official validation list, 5,000 images; the other 25,000 images are for training. Validation
    images are held out of the training images (`num_validation`). Without the two list files, test images are held out
    too (`num_test`).

    The lists name files as `imgHQ05953.npy`. The files may be images or NumPy arrays with this name, with another
    suffix, or with the same number: `imgHQ05953.png`, `05953.jpg`, `5953.jpg`.

    Args:
        root: Folder of the images; default `celebahq` in the folder given by the environment variable DATA_ROOT.
        train_list: File with one training image name per line; default `celebahqtrain.txt` in `root` or in its parent.
        validation_list: File with one test image name per line; default `celebahqvalidation.txt` in `root` or in its
            parent.
        size: Height and width in pixels; other images are resized and cropped.
        num_test: Number of test images if both lists are missing; default a tenth of all images, 5,000 at most.
        kwargs: Arguments of `ImageDataModule`.

    Source: Karras et al. 2018 (arXiv:1710.10196) for the data; Esser et al. 2021 (arXiv:2012.09841),
        `taming/data/faceshq.py`, for the lists.
    """

    def __init__(
        self,
        root: str | None = None,
        train_list: str | None = None,
        validation_list: str | None = None,
        size: int = 256,
        num_test: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(root or default_root("celebahq"), size, num_test, **kwargs)
        if (train_list is None) != (validation_list is None):
            raise LassError("Name both train_list and validation_list, or neither.")
        self.given_lists = {"train": train_list, "test": validation_list}

    def has_test_images(self) -> bool:
        """Whether both list files exist."""
        absent = [name for split, name in LISTS.items() if not self._list_file(split).is_file()]
        if None not in self.given_lists.values() or not absent:
            return True
        if len(absent) == 1:
            raise LassError(
                f"{absent[0]} is missing, but not its sibling: get both from {WHERE_LISTS}, and put them into "
                f"{self.root} or beside it."
            )
        return False

    def find(self, official_split: Split) -> ImageFiles:
        """Images of the split's list, in list order; all images if the list files are missing."""
        there = image_names(self.root) if self.root.is_dir() else []
        if not there:
            raise LassError(
                f"There are no images of CelebA-HQ in {self.root.resolve()}: get them from {WHERE}, and set DATA_ROOT "
                "to the folder that holds celebahq/, or name the folder of the images with --data.root."
            )
        names = self._listed(official_split, there) if self.has_test_images() else there
        return ImageFiles(self.root, names, torch.zeros(len(names), dtype=torch.long), self.size)

    def _list_file(self, split: Split) -> Path:
        if (given := self.given_lists[split]) is not None:
            return Path(given)
        inside, beside = self.root / LISTS[split], self.root.parent / LISTS[split]
        return beside if beside.is_file() and not inside.is_file() else inside

    def _listed(self, split: Split, there: Sequence[str]) -> list[str]:
        path = self._list_file(split)
        advice = f"get it from {WHERE_LISTS}, or name another with --data.train_list and --data.validation_list"
        lines = read_text(path, "list of file names", advice).splitlines()
        listed = [path_component(name, path) for line in lines if (name := line.strip())]
        if not listed:
            raise LassError(f"{path} is empty: expected one file name per line, as in {WHERE_LISTS}.")
        found = match_names(listed, there)
        absent = [name for name, match in zip(listed, found, strict=True) if match is None]
        if absent:
            raise LassError(
                f"{path} names {len(listed)} images, of which {len(absent)} are not in {self.root} ({some(absent)}): "
                f"get them from {WHERE}, or take them out of the list."
            )
        return [match for match in found if match is not None]


def match_names(listed: Sequence[str], there: Sequence[str]) -> list[str | None]:
    """Match listed names to files: by equal name, else by equal stem, else by equal number at the end of the stem.

    Args:
        listed: Names in the list.
        there: Names of the files.

    Returns:
        One file name or None for each listed name. A number shared by files with different stems matches none; among
        files with equal stems, the first is taken.

    Example:
        >>> match_names(["imgHQ00007.npy", "imgHQ00008.npy"], ["imgHQ00007.png", "8.jpg"])
        ['imgHQ00007.png', '8.jpg']
    """
    by_name = set(there)
    by_stem: dict[str, str] = {}
    by_number: dict[int | None, str | None] = {}
    for name in there:
        by_stem.setdefault(Path(name).stem, name)
    for stem, name in by_stem.items():
        if (number := _number(stem)) is not None:
            by_number[number] = None if number in by_number else name
    return [
        name if name in by_name else by_stem.get(Path(name).stem) or by_number.get(_number(Path(name).stem))
        for name in listed
    ]


def _number(stem: str) -> int | None:
    """Number at the end of a stem, None if it ends with another character."""
    digits = re.search(r"[0-9]+$", stem)
    return int(digits[0]) if digits else None
