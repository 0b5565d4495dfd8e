"""What all image datasets share: splits, random pairs for counting, stored mixtures for evaluation."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from lass.data.module import SourceDataModule, Split
from lass.data.pairing import draw_pairs, read_pairs
from lass.data.sharing import FreshPairing
from lass.data.sources import ImageSources
from lass.errors import LassError

NUM_VALIDATION = 5000


class ImageDataModule(SourceDataModule):
    """Images in memory; any two can be mixed.

    A dataset is a subclass with one method, `read`. One with official validation images says so in `official_splits`.

    Args:
        batch_size: number of images, of pairs, or of mixtures in a batch.
        pairs: training and validation give pairs of sources instead of single ones; for counting. Training pairs are
            drawn afresh in every epoch, validation pairs are fixed.
        num_validation: how many of the training images, chosen by `split_seed`, are held out for validation; default
            5,000. Only for datasets without official validation images.
        split_seed: seed of that choice and of pairs that are drawn here.
        separate: whether `lass predict` separates mixtures of the test or of the validation images.
        mixtures: CSV file with the stored pairing of test images; null draws one with `split_seed`.
        num_mixtures: separate only the first so many mixtures; null for all.
        num_workers: processes that load images; they lie in memory, so 0 is fastest.
    """

    what = "images"
    official_splits: ClassVar[tuple[Split, ...]] = ("train", "test")

    def __init__(
        self,
        batch_size: int = 128,
        pairs: bool = False,
        num_validation: int | None = None,
        split_seed: int = 0,
        separate: Literal["test", "validation"] = "test",
        mixtures: str | None = None,
        num_mixtures: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, pairs, split_seed, separate, mixtures, num_mixtures, num_workers)
        if num_validation is not None and "validation" in self.official_splits:
            raise LassError(f"{type(self).__name__} has validation images of its own: leave out num_validation.")
        self.num_validation = NUM_VALIDATION if num_validation is None else num_validation
        self._parts: dict[Split, ImageSources] = {}

    def read(self, official_split: Split) -> ImageSources:
        """All images of one of the `official_splits`."""
        raise NotImplementedError(f"{type(self).__name__} must define read()")

    def part(self, name: Split) -> ImageSources:
        """The sources of one part, read once; without official validation images, some of the training images are."""
        if name not in self._parts:
            if name == "test" or "validation" in self.official_splits:
                self._parts[name] = self.read(name)
            else:
                self._split_training_images()
        return self._parts[name]

    def _split_training_images(self) -> None:
        images, labels = (everything := self.read("train")).images, everything.labels
        if not 0 < self.num_validation < len(images):
            raise LassError(
                f"num_validation must be 1…{len(images) - 1}, so that some images are left, not {self.num_validation}."
            )
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.split_seed))
        held_out, kept = (
            order[: self.num_validation].sort().values,
            order[self.num_validation :].sort().values,
        )
        self._parts["validation"] = ImageSources(images[held_out], labels[held_out])
        self._parts["train"] = ImageSources(images[kept], labels[kept])

    def identity(self, part: Split) -> str:
        """Tells the images of a part from those of other datasets, splits and settings; part of names of files."""
        choice = (type(self).__name__, getattr(self, "root", None), self.num_validation, self.split_seed)
        return f"{part}-{hashlib.sha256(repr(choice).encode()).hexdigest()[:8]}"

    def fresh_pairs(self, num_ranks: int, rank: int, seed: int) -> FreshPairing:
        """Random pairs of training images."""
        return FreshPairing(len(self.part("train")), num_ranks, rank, seed)

    def validation_pairs(self) -> Int[Tensor, "pairs 2"]:
        """Random pairs of validation images."""
        num_sources = len(self.part("validation"))
        return draw_pairs(num_sources, num_sources // 2, self.split_seed)

    def mixture_pairs(self) -> Int[Tensor, "mixtures 2"]:
        """The stored pairs, or random ones."""
        num_sources = len(self.part(self.separate))
        if self.mixtures is not None and self.separate == "test":
            return read_pairs(self.mixtures, num_sources)
        return draw_pairs(num_sources, self.num_mixtures or num_sources // 2, self.split_seed)
