"""What all image datasets share: splits, random pairs for counting, stored mixtures for evaluation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from lass.data.mixture_lists import draw_pairs, read_pairs
from lass.data.module import SourceDataModule, Split
from lass.data.pair_samplers import RandomPairing
from lass.data.sources import SourceDataset
from lass.errors import LassError

MAX_HELD_OUT = 5000


class ImageDataModule(SourceDataModule):
    """Images, any two of which can be mixed.

    A dataset is a subclass with one method, `read`. One with official validation images says so in `official_splits`.

    Args:
        batch_size: number of images, of pairs, or of mixtures in a batch.
        pairs: training and validation give pairs of sources instead of single ones; for counting. Training pairs are
            drawn afresh in every epoch, validation pairs are fixed.
        num_validation: how many of the training images, chosen by `split_seed`, are held out for validation; default a
            tenth, 5,000 at most. Only for datasets without official validation images.
        split_seed: seed of that choice and of pairs that are drawn here.
        predict_split: whether `lass predict` separates mixtures of the test or of the validation images.
        mixtures: CSV file with the stored pairing of test images; null draws one with `split_seed`.
        num_mixtures: separate only the first so many mixtures; null for all.
        num_workers: processes that load images; 0 is fastest for images that lie in memory.
    """

    what = "images"
    official_splits: ClassVar[tuple[Split, ...]] = ("train", "test")

    def __init__(
        self,
        batch_size: int = 128,
        pairs: bool = False,
        num_validation: int | None = None,
        split_seed: int = 0,
        predict_split: Literal["test", "validation"] = "test",
        mixtures: str | None = None,
        num_mixtures: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, pairs, split_seed, predict_split, mixtures, num_mixtures, num_workers)
        if num_validation is not None and "validation" in self.official_splits:
            raise LassError(f"{type(self).__name__} has validation images of its own: leave out num_validation.")
        self.num_validation = num_validation
        self._parts: dict[Split, SourceDataset] = {}
        self._identities: dict[Split, str] = {}

    def read(self, official_split: Split) -> SourceDataset:
        """All images of one of the `official_splits`."""
        raise NotImplementedError(f"{type(self).__name__} must define read()")

    def part(self, name: Split) -> SourceDataset:
        """The sources of one part, read once; without official validation images, some of the training images are."""
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
        """Dataset, part, and a fingerprint of its images, which differs with every setting that changes them."""
        if part not in self._identities:
            self._identities[part] = f"{type(self).__name__.lower()}-{part}-{self.part(part).fingerprint()}"
        return self._identities[part]

    def fresh_pairs(self, num_ranks: int, rank: int, seed: int) -> RandomPairing:
        """Random pairs of training images."""
        return RandomPairing(len(self.part("train")), num_ranks, rank, seed)

    def validation_pairs(self) -> Int[Tensor, "pairs 2"]:
        """Random pairs of validation images."""
        num_sources = len(self.part("validation"))
        return draw_pairs(num_sources, num_sources // 2, self.split_seed)

    def mixture_pairs(self) -> Int[Tensor, "mixtures 2"]:
        """The stored pairs, or random ones."""
        num_sources = len(self.part(self.predict_split))
        if self.mixtures is not None and self.predict_split == "test":
            return read_pairs(self.mixtures, num_sources)
        return draw_pairs(num_sources, self.num_mixtures or num_sources // 2, self.split_seed)


def hold_out(
    num_images: int, num_held_out: int | None, seed: int, setting: str
) -> tuple[Int[Tensor, " held_out"], Int[Tensor, " kept"]]:
    """Choose images at random.

    Args:
        num_images: from which to choose.
        num_held_out: so many; None for a tenth, but at least a pair and 5,000 at most.
        seed: of the choice.
        setting: that `num_held_out` came from, for errors.

    Returns:
        Positions of the chosen images and of the others, both ascending.

    Raises:
        LassError: if none would be held out, or none left.
    """
    if num_held_out is None:
        num_held_out = min(max(num_images // 10, 2), MAX_HELD_OUT)
    if not 0 < num_held_out < num_images:
        raise LassError(
            f"{setting} must be 1…{num_images - 1}, so that some of {num_images} images are left, not {num_held_out}."
        )
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return order[:num_held_out].sort().values, order[num_held_out:].sort().values
