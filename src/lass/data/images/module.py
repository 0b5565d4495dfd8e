"""Base data module of image datasets: splits, random tuples for the likelihood, stored mixtures for evaluation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from lass.data.mixture_lists import draw_tuples, read_tuples
from lass.data.module import SourceDataModule, Split
from lass.data.sources import SourceDataset
from lass.data.tuple_samplers import RandomTuples
from lass.errors import LassError

MAX_HELD_OUT = 5000


class ImageDataModule(SourceDataModule):
    """Base data module of image datasets, in which any images can be mixed.

    A dataset is a subclass that defines `read`. A dataset with an official validation split adds it to
    `official_splits`.

    Args:
        batch_size: Number of images, tuples or mixtures per batch.
        tuples: Load tuples of `num_sources` images instead of single images for training and validation, as estimating
            the likelihood requires. Training tuples are redrawn in every epoch; validation tuples are fixed.
        num_sources: Number S of images per mixture, 2 to 64.
        weights: Weight of each image in a mixture, S positive numbers with a sum of at most 1, so that mixtures stay in
            [0, 1]; null for the mean, 1/S each.
        num_validation: Number of training images, chosen with `split_seed`, that are held out for validation; default
            a tenth, 5,000 at most. Only for datasets without an official validation split.
        split_seed: Seed of that choice and of the validation and test tuples drawn here.
        predict_split: Split whose images are mixed for `lass predict`.
        mixtures: Path of a CSV file with stored tuples of test images; null draws tuples with `split_seed`.
        num_mixtures: Number of mixtures to separate, from the start of the list; null for all.
        num_workers: Number of worker processes that load images; 0 is fastest for images in memory.
    """

    what = "images"
    official_splits: ClassVar[tuple[Split, ...]] = ("train", "test")

    def __init__(
        self,
        batch_size: int = 128,
        tuples: bool = False,
        num_sources: int = 2,
        weights: list[float] | None = None,
        num_validation: int | None = None,
        split_seed: int = 0,
        predict_split: Literal["test", "validation"] = "test",
        mixtures: str | None = None,
        num_mixtures: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            batch_size,
            tuples,
            num_sources,
            weights,
            split_seed,
            predict_split,
            mixtures,
            num_mixtures,
            num_workers,
        )
        if num_validation is not None and "validation" in self.official_splits:
            raise LassError(f"{type(self).__name__} has validation images of its own: leave out num_validation.")
        self.num_validation = num_validation
        self._parts: dict[Split, SourceDataset] = {}
        self._identities: dict[Split, str] = {}

    def read(self, official_split: Split) -> SourceDataset:
        """Read all images of one of the `official_splits`."""
        raise NotImplementedError(f"{type(self).__name__} must define read()")

    def part(self, name: Split) -> SourceDataset:
        """Dataset of a split, read on first access; without an official validation split, held-out training images."""
        if name not in self._parts:
            if name == "test" or "validation" in self.official_splits:
                self._parts[name] = self.read(name)
            else:
                self._split_training_images()
        return self._parts[name]

    def _split_training_images(self) -> None:
        images = self.read("train")
        held_out, kept = hold_out(len(images), self.num_validation, self.split_seed, "num_validation")
        self._parts["validation"], self._parts["train"] = images.subset(held_out), images.subset(kept)

    def identity(self, part: Split) -> str:
        """Name of the dataset, split, and a fingerprint of its images; settings that change the images change it."""
        if part not in self._identities:
            self._identities[part] = f"{type(self).__name__.lower()}-{part}-{self.part(part).fingerprint()}"
        return self._identities[part]

    def fresh_tuples(self, num_ranks: int, rank: int, seed: int) -> RandomTuples:
        """Sampler of random tuples of training images, redrawn in every epoch."""
        return RandomTuples(len(self.part("train")), self.num_sources, num_ranks, rank, seed)

    def validation_tuples(self) -> Int[Tensor, "tuples num_sources"]:
        """Random tuples of validation images, fixed by `split_seed`, (tuples, num_sources)."""
        num_images = len(self.part("validation"))
        return draw_tuples(num_images, num_images // self.num_sources, self.split_seed, self.num_sources)

    def mixture_tuples(self) -> Int[Tensor, "mixtures num_sources"]:
        """Tuples of each mixture, (mixtures, num_sources).

        Read from `mixtures` for the test split if it is set, otherwise random tuples fixed by `split_seed`.
        """
        num_images = len(self.part(self.predict_split))
        if self.mixtures is not None and self.predict_split == "test":
            return read_tuples(self.mixtures, num_images, self.num_sources)
        num_mixtures = self.num_mixtures or num_images // self.num_sources
        return draw_tuples(num_images, num_mixtures, self.split_seed, self.num_sources)


def hold_out(
    num_images: int, num_held_out: int | None, seed: int, setting: str
) -> tuple[Int[Tensor, " held_out"], Int[Tensor, " kept"]]:
    """Split images at random into held-out and kept images.

    Args:
        num_images: Number of images.
        num_held_out: Number of images to hold out; None for a tenth, at least 2 and at most 5,000.
        seed: Seed of the random split.
        setting: Name of the setting that gave `num_held_out`, for error messages.

    Returns:
        Positions of the held-out and of the kept images, both ascending.

    Raises:
        LassError: if no image would be held out, or none kept.
    """
    if num_held_out is None:
        num_held_out = min(max(num_images // 10, 2), MAX_HELD_OUT)
    if not 0 < num_held_out < num_images:
        raise LassError(
            f"{setting} must be 1…{num_images - 1}, so that some of {num_images} images are left, not {num_held_out}."
        )
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return order[:num_held_out].sort().values, order[num_held_out:].sort().values
