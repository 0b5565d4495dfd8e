"""MNIST in its official splits."""

from __future__ import annotations

import os
from pathlib import Path

from torchvision import datasets

from lass.data.images.module import ImageDataModule
from lass.data.module import Split
from lass.data.sources import ImageSources
from lass.errors import LassError


class MNIST(ImageDataModule):
    """60,000 training and 10,000 test digits of 28×28 pixels.

    Args:
        root: folder that holds `MNIST/raw`; default the variable DATA_ROOT. Where neither is given, torchvision
            downloads the files to `data`.
        kwargs: the arguments of ImageDataModule.
    """

    def __init__(self, root: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        given = root or os.environ.get("DATA_ROOT")
        self.root, self.may_download = Path(given or "data"), not given

    def prepare_data(self) -> None:
        """Download where that is wanted; on one process only."""
        if self.may_download:
            try:
                datasets.MNIST(str(self.root), download=True)
            except Exception as error:  # no network, a bad archive: urllib and torchvision raise what they like
                reason = " ".join(str(error).split()) or type(error).__name__
                raise LassError(
                    f"MNIST could not be downloaded to {self.root.resolve()} ({reason}): download it elsewhere and set "
                    "DATA_ROOT to the folder that holds MNIST/raw."
                ) from error

    def read(self, official_split: Split) -> ImageSources:
        """One official split, read without a download."""
        try:
            dataset = datasets.MNIST(str(self.root), train=official_split == "train", download=False)
            if len(dataset.data) != len(dataset.targets):
                raise ValueError(f"{len(dataset.data)} {official_split} images, but {len(dataset.targets)} labels")
        except Exception as error:  # of damaged files, torchvision raises nearly every built-in exception
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LassError(
                f"MNIST could not be read from {self.root.resolve()} ({reason}): expected "
                "MNIST/raw/train-images-idx3-ubyte and its three siblings there; set DATA_ROOT to the folder that "
                "holds MNIST/, or unset it to download to `data`."
            ) from error
        return ImageSources(dataset.data[:, None], dataset.targets)
