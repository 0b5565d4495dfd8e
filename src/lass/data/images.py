"""What all image datasets share: splits, pairs for counting, stored mixtures for evaluation."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from lass.data.pairing import draw_pairs, read_pairs
from lass.data.sharing import EqualShares, FreshPairing
from lass.data.sources import FixedPairs, FreshPairs, ImageSources, as_is
from lass.errors import LassError

Split = Literal["train", "validation", "test"]
NUM_VALIDATION = 5000


def check_batch(num_sources: int, batch_size: int, pairs: bool = False) -> None:
    """Raise LassError if there are too few training sources for a batch of so many sources, or pairs of them."""
    if num_sources < batch_size * (1 + pairs):
        raise LassError(
            f"There are {num_sources} training images, fewer than one batch of {batch_size} "
            f"{'pairs' if pairs else 'images'} needs: make batch_size smaller."
        )


class ImageDataModule(LightningDataModule):
    """Single images for training, pairs for counting, stored mixtures for separation.

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
        super().__init__()
        if num_validation is not None and "validation" in self.official_splits:
            raise LassError(f"{type(self).__name__} has validation images of its own: leave out num_validation.")
        self.batch_size, self.pairs, self.num_workers = batch_size, pairs, num_workers
        self.num_validation = NUM_VALIDATION if num_validation is None else num_validation
        self.split_seed = split_seed
        self.separate, self.mixtures, self.num_mixtures = separate, mixtures, num_mixtures
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

    def setup(self, stage: str) -> None:
        """Read what the stage needs, so that missing data is reported before anything else starts."""
        self.part(self.separate if stage == "predict" else "train")

    def train_dataloader(self) -> DataLoader:
        """Shuffled sources, or fresh random pairs of them; a function of seed and epoch, so that a resumed run sees
        what it would have seen.
        """
        sources, seed = self.part("train"), torch.initial_seed() % 2**31
        check_batch(len(sources), self.batch_size, self.pairs)
        if not self.pairs:
            return self._loader(sources, DistributedSampler(sources, *self._ranks, seed=seed))
        return self._loader(FreshPairs(sources), FreshPairing(len(sources), *self._ranks, seed))

    def val_dataloader(self) -> DataLoader:
        """Held-out sources, or fixed pairs of them."""
        sources = self.part("validation")
        if not self.pairs:
            return self._loader(sources)
        pairs = FixedPairs(sources, draw_pairs(len(sources), len(sources) // 2, self.split_seed))
        return self._loader(pairs, EqualShares(len(pairs), *self._ranks))

    def predict_dataloader(self) -> DataLoader:
        """The mixtures to separate, in their stored order."""
        sources = self.part(self.separate)
        if self.num_mixtures is not None and self.num_mixtures < 1:
            raise LassError(f"num_mixtures must be at least 1, not {self.num_mixtures}.")
        if self.mixtures is not None and self.separate == "test":
            pairs = read_pairs(self.mixtures, len(sources))
        else:
            pairs = draw_pairs(len(sources), self.num_mixtures or len(sources) // 2, self.split_seed)
        if self.num_mixtures is not None and self.num_mixtures > len(pairs):
            raise LassError(
                f"There are {len(pairs)} mixtures, so num_mixtures must be 1…{len(pairs)}, not {self.num_mixtures}."
            )
        return self._loader(FixedPairs(sources, pairs[: self.num_mixtures]))

    @property
    def _ranks(self) -> tuple[int, int]:
        """How many processes share the work, and which of them this one is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, dataset: Dataset, sampler: Sampler | None = None) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
