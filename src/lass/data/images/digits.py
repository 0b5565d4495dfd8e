"""Handwritten digits of scikit-learn: a small demonstration dataset that needs no download."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lass.data.images.module import ImageDataModule
from lass.data.module import Split
from lass.data.sources import ImageSources

NUM_TEST = 397  # the last images; the 1,400 before them are for training and validation


class Digits(ImageDataModule):
    """1,797 digits of 8×8 pixels, enlarged to 16×16 so that a codec with reduction 4 has a grid of 4×4 codes.

    Source: `sklearn.datasets.load_digits` (UCI, E. Alpaydin and C. Kaynak).
    """

    def read(self, official_split: Split) -> ImageSources:
        """The first 1,400 digits for "train", the last 397 for "test"."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images)[:, None].float() / 16
        images = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        part = slice(None, -NUM_TEST) if official_split == "train" else slice(-NUM_TEST, None)
        return ImageSources((images * 255).round().byte()[part], torch.from_numpy(digits.target)[part])
