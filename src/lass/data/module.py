"""What all datasets share: single sources for training, pairs of them for counting, mixtures to separate."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from jaxtyping import Int
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from lass.data.loading import ResumableLoader
from lass.data.pair_samplers import PaddedSampler
from lass.data.signals import HasSampleRate
from lass.data.sources import FixedPairs, FreshPairs, SourceDataset, identity_collate
from lass.errors import LassError, check_number

Split = Literal["train", "validation", "test"]
MAX_SEED = 2**63 - 1  # that a torch.Generator takes whatever the sign is


def check_batch(num_sources: int, batch_size: int, pairs: bool = False, what: str = "sources") -> None:
    """Raise LassError if there are too few training sources for a batch of so many sources, or pairs of them."""
    if num_sources < batch_size * (1 + pairs):
        raise LassError(
            f"There are {num_sources} training {what}, fewer than one batch of {batch_size} "
            f"{'pairs' if pairs else what} needs: make batch_size smaller."
        )


def check_sample_rate(data: object, codec: object) -> None:
    """Raise LassError if a data module gives audio of another rate than the codec is for."""
    if not isinstance(data, HasSampleRate) or not isinstance(codec, HasSampleRate):
        return
    given, wanted = data.sample_rate, codec.sample_rate
    if given != wanted:
        raise LassError(
            f"The data has {given} samples per second, but the codec is for {wanted}: set the data's sample_rate to "
            f"{wanted}, or train a codec for {given}."
        )


class SourceDataModule(LightningDataModule):
    """Loaders of what subclasses read: they define `part`, `fresh_pairs`, `validation_pairs` and `mixture_pairs`.

    Args:
        batch_size: number of sources, of pairs, or of mixtures in a batch.
        pairs: training and validation give pairs of sources instead of single ones; for counting. Training pairs are
            drawn afresh in every epoch, validation pairs are fixed.
        split_seed: seed of what is drawn here.
        predict_split: whether `lass predict` separates mixtures of the test or of the validation sources.
        mixtures: CSV file with the stored mixtures of the test; null draws them with `split_seed`.
        num_mixtures: separate only the first so many mixtures; null for all.
        num_workers: processes that load sources.

    Raises:
        LassError: if one of these numbers is outside its limits.
    """

    what = "sources"  # they are called in errors

    def __init__(
        self,
        batch_size: int,
        pairs: bool,
        split_seed: int,
        predict_split: Literal["test", "validation"],
        mixtures: str | None,
        num_mixtures: int | None,
        num_workers: int,
    ) -> None:
        super().__init__()
        check_number("batch_size", batch_size, at_least=1, whole=True)
        check_number("num_workers", num_workers, at_least=0, whole=True)
        check_number("split_seed", split_seed, at_least=0, at_most=MAX_SEED, whole=True)
        if num_mixtures is not None:
            check_number("num_mixtures", num_mixtures, at_least=1, whole=True)
        self.batch_size, self.pairs, self.split_seed, self.num_workers = batch_size, pairs, split_seed, num_workers
        self.predict_split, self.mixtures, self.num_mixtures = predict_split, mixtures, num_mixtures

    def part(self, name: Split) -> SourceDataset:
        """The sources of one part, read once."""
        raise NotImplementedError(f"{type(self).__name__} must define part()")

    def identity(self, part: Split) -> str:
        """Tells the sources of a part from those of other datasets, splits and settings; part of names of files."""
        raise NotImplementedError(f"{type(self).__name__} must define identity()")

    def fresh_pairs(self, num_ranks: int, rank: int, seed: int) -> PaddedSampler:
        """Which training sources are paired, anew in every epoch."""
        raise NotImplementedError(f"{type(self).__name__} must define fresh_pairs()")

    def validation_pairs(self) -> Int[Tensor, "pairs 2"]:
        """Which validation sources are paired."""
        raise NotImplementedError(f"{type(self).__name__} must define validation_pairs()")

    def mixture_pairs(self) -> Int[Tensor, "mixtures 2"]:
        """Which sources of the part `predict_split` make up the mixtures."""
        raise NotImplementedError(f"{type(self).__name__} must define mixture_pairs()")

    def setup(self, stage: str) -> None:
        """Read what the stage needs, so that missing data is reported before anything else starts."""
        self.part(self.predict_split if stage == "predict" else "train")

    def train_dataloader(self) -> DataLoader:
        """Shuffled sources, or fresh random pairs of them; a function of seed and epoch, so that a resumed run sees
        what it would have seen.
        """
        sources, seed = self.part("train"), torch.initial_seed() % 2**31
        if not self.pairs:
            check_batch(len(sources), self.batch_size, what=self.what)
            return self._loader(sources, DistributedSampler(sources, *self._ranks, seed=seed), training=True)
        pairing = self.fresh_pairs(*self._ranks, seed)
        check_batch(2 * pairing.num_items, self.batch_size, pairs=True, what=self.what)
        return self._loader(FreshPairs(sources), pairing, training=True)

    def val_dataloader(self) -> DataLoader:
        """Held-out sources, or fixed pairs of them."""
        sources = self.part("validation")
        if not self.pairs:
            return self._loader(sources)
        pairs = FixedPairs(sources, self.validation_pairs())
        return self._loader(pairs, PaddedSampler(len(pairs), *self._ranks))

    def predict_dataloader(self) -> DataLoader:
        """The mixtures to separate, in their stored order."""
        pairs = self.mixture_pairs()
        if self.num_mixtures is not None and self.num_mixtures > len(pairs):
            raise LassError(
                f"There are {len(pairs)} mixtures, so num_mixtures must be 1…{len(pairs)}, not {self.num_mixtures}."
            )
        return self._loader(FixedPairs(self.part(self.predict_split), pairs[: self.num_mixtures]))

    @property
    def _ranks(self) -> tuple[int, int]:
        """How many processes share the work, and which of them this one is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, dataset: Dataset, sampler: Sampler | None = None, training: bool = False) -> DataLoader:
        make = partial(ResumableLoader, self.trainer) if training else DataLoader
        return make(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=identity_collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
