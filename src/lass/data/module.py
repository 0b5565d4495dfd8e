"""Base data module: loaders of single sources (training), source pairs (likelihood) and mixtures (separation)."""

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
MAX_SEED = 2**63 - 1  # torch.Generator accepts seeds of either sign up to this magnitude


def check_batch(num_sources: int, batch_size: int, pairs: bool = False, what: str = "sources") -> None:
    """Raise LassError if the training sources do not fill one batch of `batch_size` sources, or of as many pairs."""
    if num_sources < batch_size * (1 + pairs):
        raise LassError(
            f"There are {num_sources} training {what}, fewer than one batch of {batch_size} "
            f"{'pairs' if pairs else what} needs: make batch_size smaller."
        )


def check_sample_rate(data: object, codec: object) -> None:
    """Raise LassError if the sample rates of data module and codec differ; skipped where either has none."""
    if not isinstance(data, HasSampleRate) or not isinstance(codec, HasSampleRate):
        return
    given, wanted = data.sample_rate, codec.sample_rate
    if given != wanted:
        raise LassError(
            f"The data has {given} samples per second, but the codec is for {wanted}: set the data's sample_rate to "
            f"{wanted}, or train a codec for {given}."
        )


class SourceDataModule(LightningDataModule):
    """Base class of data modules: data loaders of sources, source pairs and mixtures.

    Subclasses define `part`, `identity`, `fresh_pairs`, `validation_pairs` and `mixture_pairs`.

    Args:
        batch_size: Number of sources, pairs or mixtures per batch.
        pairs: Load pairs of sources instead of single sources for training and validation, as estimating the
            likelihood requires. Training pairs are redrawn in every epoch; validation pairs are fixed.
        split_seed: Seed of all random choices of the data module.
        predict_split: Split whose sources are mixed for `lass predict`.
        mixtures: Path of a CSV file with the stored test mixtures; null draws them with `split_seed`.
        num_mixtures: Number of mixtures to separate, from the start of the list; null for all.
        num_workers: Number of worker processes that load sources.

    Raises:
        LassError: if one of these numbers is outside its limits.
    """

    what = "sources"  # plural noun for the sources in error messages

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
        """The dataset of a split; read on first access and kept."""
        raise NotImplementedError(f"{type(self).__name__} must define part()")

    def identity(self, part: Split) -> str:
        """Identifier of the sources of a split, unique to dataset, split and settings; used in names of cache files."""
        raise NotImplementedError(f"{type(self).__name__} must define identity()")

    def fresh_pairs(self, num_ranks: int, rank: int, seed: int) -> PaddedSampler:
        """Sampler of training pairs, redrawn in every epoch."""
        raise NotImplementedError(f"{type(self).__name__} must define fresh_pairs()")

    def validation_pairs(self) -> Int[Tensor, "pairs 2"]:
        """Positions of the two sources of each validation pair, (pairs, 2)."""
        raise NotImplementedError(f"{type(self).__name__} must define validation_pairs()")

    def mixture_pairs(self) -> Int[Tensor, "mixtures 2"]:
        """Positions of the two sources of each mixture in the split `predict_split`, (mixtures, 2)."""
        raise NotImplementedError(f"{type(self).__name__} must define mixture_pairs()")

    def setup(self, stage: str) -> None:
        """Read the split that the stage needs, so that missing data is reported before anything else starts."""
        self.part(self.predict_split if stage == "predict" else "train")

    def train_dataloader(self) -> DataLoader:
        """Loader of shuffled training sources, or of training pairs redrawn in every epoch.

        The order is a function of seed and epoch, so a resumed run continues with the batches of an uninterrupted run.
        """
        sources, seed = self.part("train"), torch.initial_seed() % 2**31
        if not self.pairs:
            check_batch(len(sources), self.batch_size, what=self.what)
            return self._loader(sources, DistributedSampler(sources, *self._ranks, seed=seed), training=True)
        pairing = self.fresh_pairs(*self._ranks, seed)
        check_batch(2 * pairing.num_items, self.batch_size, pairs=True, what=self.what)
        return self._loader(FreshPairs(sources), pairing, training=True)

    def val_dataloader(self) -> DataLoader:
        """Loader of validation sources, or of fixed validation pairs."""
        sources = self.part("validation")
        if not self.pairs:
            return self._loader(sources)
        pairs = FixedPairs(sources, self.validation_pairs())
        return self._loader(pairs, PaddedSampler(len(pairs), *self._ranks))

    def predict_dataloader(self) -> DataLoader:
        """Loader of the mixtures to separate, in list order."""
        pairs = self.mixture_pairs()
        if self.num_mixtures is not None and self.num_mixtures > len(pairs):
            raise LassError(
                f"There are {len(pairs)} mixtures, so num_mixtures must be 1…{len(pairs)}, not {self.num_mixtures}."
            )
        return self._loader(FixedPairs(self.part(self.predict_split), pairs[: self.num_mixtures]))

    @property
    def _ranks(self) -> tuple[int, int]:
        """World size and global rank; (1, 0) without a trainer."""
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
