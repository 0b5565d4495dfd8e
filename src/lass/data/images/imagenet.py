"""ImageNet in torchvision's layout, or any folder with one subfolder of images per class."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_warn

from lass.data.files import read_text
from lass.data.images.folder import ImageFiles, ImageFolderModule, default_root, image_names, some
from lass.data.module import Split
from lass.errors import LassError

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
NUM_CLASSES = 1000
WORDNET_ID = re.compile(r"n[0-9]{8}\b")  # names of ImageNet's class folders
WHERE = "https://www.image-net.org/download.php"


class ImageNet(ImageFolderModule):
    """ImageNet, 1.3 million photographs of 1,000 classes: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

    The test split is the 50,000 official validation images in `val`, because the labels of the official test images
    were never published. Validation images are held out of the training images (`num_validation`). If neither `train`
    nor `val` exists, images are read from `<class>/*`, and test images are held out too (`num_test`).

    The label of an image is the position of its class among the sorted folder names. With the 1,000 folders of ImageNet
    (`n01440764`, …), this is the class number used by published models. With fewer folders, labels are ImageNet's only
    if `classes` lists all 1,000 classes.

    Args:
        root: Folder that contains `train` and `val`; default `imagenet` in the folder given by the environment variable
            DATA_ROOT.
        classes: File with one line per class, in label order: the name of the class folder or, as in
            `LOC_synset_mapping.txt`, a WordNet ID followed by its meaning; default the sorted folder names.
        size: Height and width in pixels: the shorter side is resized (bilinear with antialiasing), then the centre
            square is cropped.
        num_test: Number of test images if neither `train` nor `val` exists; default a tenth of all images, 5,000 at
            most.
        kwargs: Arguments of `ImageDataModule`.

    Source: Russakovsky et al. 2015 (arXiv:1409.0575); torchvision.datasets.ImageNet for the layout.
    """

    def __init__(
        self,
        root: str | None = None,
        classes: str | None = None,
        size: int = 256,
        num_test: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(root or default_root("imagenet"), size, num_test, **kwargs)
        self.classes = None if classes is None else Path(classes)

    def has_test_images(self) -> bool:
        """Whether `train` or `val` exists."""
        return any((self.root / name).is_dir() for name in FOLDERS.values())

    def find(self, official_split: Split) -> ImageFiles:
        """All images of a split, sorted by class folder and name."""
        folder = self.root / FOLDERS[official_split] if self.has_test_images() else self.root
        folders = _folders(folder)
        if not folders:
            lack = "no folders of classes, only images" if folder.is_dir() and image_names(folder) else "no images"
            raise LassError(
                f"There are {lack} in {folder.resolve()}: expected train/n01440764/….JPEG and val/n01440764/….JPEG, as "
                f"torchvision.datasets.ImageNet unpacks them; get ImageNet from {WHERE}, and set DATA_ROOT to the "
                "folder that holds imagenet/, or name the folder with --data.root."
            )
        label_of = {name: label for label, name in enumerate(self._class_names())}
        unknown = [name for name in folders if name not in label_of]
        if unknown:
            raise LassError(f"{self.classes} lacks {len(unknown)} classes of {folder} ({some(unknown)}): add them.")
        names, labels = [], []
        for name in folders:
            of_class = image_names(folder / name)
            names += [f"{name}/{image}" for image in of_class]
            labels += [label_of[name]] * len(of_class)
        if not names:
            raise LassError(f"The {len(folders)} folders in {folder} hold no images: expected JPEG files in each.")
        return ImageFiles(folder, names, torch.tensor(labels), self.size)

    def _class_names(self) -> list[str]:
        """Class names in label order; the union over both splits, so that labels agree between splits."""
        if self.classes is not None:
            text = read_text(self.classes, "list of classes", "expected a folder's name in each line")
            lines = filter(None, map(str.strip, text.splitlines()))
            names = [line.split()[0] if WORDNET_ID.match(line) else line for line in lines]
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise LassError(f"{self.classes} names classes more than once ({some(twice)}): expected each once.")
            return names
        splits = [self.root / name for name in FOLDERS.values()] if self.has_test_images() else [self.root]
        names = sorted({name for split in splits for name in _folders(split)})
        if len(names) != NUM_CLASSES and all(map(WORDNET_ID.match, names)):
            rank_zero_warn(
                f"{self.root} has {len(names)} of ImageNet's {NUM_CLASSES:,} classes, so labels are not ImageNet's: "
                "for a prior that is conditional on ImageNet's classes, name a file with all of them in their order "
                "with --data.classes."
            )
        return names


def _folders(folder: Path) -> list[str]:
    """Sorted names of the non-hidden subfolders of a folder; empty if the folder does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
