"""ImageNet as torchvision lays it out, or any folder with a folder of images for each class."""

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
WORDNET_ID = re.compile(r"n[0-9]{8}\b")  # what ImageNet calls a class
WHERE = "https://www.image-net.org/download.php"


class ImageNet(ImageFolderModule):
    """1.3 million photographs of 1,000 classes: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

    The 50,000 validation images in `val` are the test here, because the labels of the official test were never
    published; validation images are held out of training by `num_validation`. Where there is neither `train` nor `val`,
    `<class>/*` is taken, and test images are held out too.

    The label of an image is the position of its class among the sorted names of the folders. For the 1,000 folders of
    ImageNet (`n01440764`, …) that is the class number which published models use. Of a dataset with fewer folders the
    labels are those of ImageNet only with a list of all classes.

    Args:
        root: folder that holds `train` and `val`; default `imagenet` in the folder that the variable DATA_ROOT names.
        classes: file with a line for each class, in the order of their labels: the name of its folder, or, as in
            `LOC_synset_mapping.txt`, a WordNet ID and what it means; default the sorted names of the folders.
        size: height and width in pixels: the shorter side is resized (bilinear with antialiasing), the middle kept.
        num_test: how many of all images are the test where there is neither `train` nor `val`; default a tenth, 5,000
            at most.
        kwargs: the arguments of ImageDataModule.

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
        """Whether there are folders for the splits."""
        return any((self.root / name).is_dir() for name in FOLDERS.values())

    def find(self, official_split: Split) -> ImageFiles:
        """Every image of a split, by class and name."""
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
        """In the order of their labels; of both splits, so that a label means the same in both."""
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
    """Names of the folders in a folder, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
