"""Real handwritten digits that come with scikit-learn: no download, small enough for a demonstration."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lass.data.images.module import ImageDataModule
from lass.data.module import Split
from lass.data.sources import ImageSources

NUM_TEST = 397  # the last ones; the 1,400 before are for training and validation


class Digits(ImageDataModule):
    """1,797 digits of 8×8 pixels, enlarged to 16×16 so that a codec that divides by four leaves a grid of 4×4 codes.

    Source: `sklearn.datasets.load_digits` (UCI, E. Alpaydin and C. Kaynak).
    """

    def read(self, official_split: Split) -> ImageSources:
        """The first 1,400 digits, or the last 397."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images)[:, None].float() / 16
        images = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        part = slice(None, -NUM_TEST) if official_split == "train" else slice(-NUM_TEST, None)
        return ImageSources((images * 255).round().byte()[part], torch.from_numpy(digits.target)[part])
