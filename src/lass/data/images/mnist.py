"""MNIST handwritten digits in their official splits."""

from __future__ import annotations

import os
from pathlib import Path

from torchvision import datasets

from lass.data.images.module import ImageDataModule
from lass.data.module import Split
from lass.data.sources import ImageSources
from lass.errors import LassError


class MNIST(ImageDataModule):
    """MNIST, 60,000 training and 10,000 test images of handwritten digits, 28×28 pixels.

    Args:
        root: Folder that contains `MNIST/raw`; default the environment variable DATA_ROOT. If neither is set,
            torchvision downloads the files to `data`.
        kwargs: Arguments of `ImageDataModule`.
    """

    def __init__(self, root: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        given = root or os.environ.get("DATA_ROOT")
        self.root, self.may_download = Path(given or "data"), not given

    def prepare_data(self) -> None:
        """Download the files if neither `root` nor DATA_ROOT is set; Lightning calls this on one process only."""
        if self.may_download:
            try:
                datasets.MNIST(str(self.root), download=True)
            except Exception as error:  # no network, bad archive: urllib and torchvision raise many kinds of exceptions
                reason = " ".join(str(error).split()) or type(error).__name__
                raise LassError(
                    f"MNIST could not be downloaded to {self.root.resolve()} ({reason}): download it elsewhere and set "
                    "DATA_ROOT to the folder that holds MNIST/raw."
                ) from error

    def read(self, official_split: Split) -> ImageSources:
        """Read an official split, without a download."""
        try:
            dataset = datasets.MNIST(str(self.root), train=official_split == "train", download=False)
            if len(dataset.data) != len(dataset.targets):
                raise ValueError(f"{len(dataset.data)} {official_split} images, but {len(dataset.targets)} labels")
        except Exception as error:  # torchvision raises many kinds of built-in exceptions for damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LassError(
                f"MNIST could not be read from {self.root.resolve()} ({reason}): expected "
                "MNIST/raw/train-images-idx3-ubyte and its three siblings there; set DATA_ROOT to the folder that "
                "holds MNIST/, or unset it to download to `data`."
            ) from error
        return ImageSources(dataset.data[:, None], dataset.targets)
