"""Base data module: loaders of single sources (training), source tuples (likelihood) and mixtures (separation)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Int
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from lass.data.loading import ResumableLoader
from lass.data.mixing import check_weights
from lass.data.signals import HasSampleRate
from lass.data.sources import FixedTuples, FreshTuples, SourceDataset, identity_collate
from lass.data.tuple_samplers import PaddedSampler
from lass.errors import LassError, check_number

Split = Literal["train", "validation", "test"]
MAX_SEED = 2**63 - 1  # torch.Generator accepts seeds of either sign up to this magnitude
MAX_SOURCES = 64  # per mixture


def check_batch(num_available: int, batch_size: int, num_sources: int = 1, what: str = "sources") -> None:
    """Raise LassError if the training sources do not fill one batch of `batch_size` tuples of `num_sources` each."""
    if num_available < batch_size * num_sources:
        items = what if num_sources == 1 else f"tuples of {num_sources} {what}"
        raise LassError(
            f"There are {num_available} training {what}, fewer than one batch of {batch_size} {items} needs: make "
            "batch_size smaller."
        )


def weights_of(data: object) -> list[float] | None:
    """Mixing weights of a data module; None, which stands for the mean, for anything else."""
    return data.weights if isinstance(data, SourceDataModule) else None


def check_sample_rate(data: object, part: object, what: str = "the codec", remedy: str = "train a codec for") -> None:
    """Raise LassError if the sample rates of data module and codec differ; skipped where either has none.

    Args:
        data: Data module.
        part: Codec or separation method.
        what, remedy: Name of the part, and how to get one for another sample rate, for errors.
    """
    if not isinstance(data, HasSampleRate) or not isinstance(part, HasSampleRate):
        return
    given, wanted = data.sample_rate, part.sample_rate
    if given != wanted:
        raise LassError(
            f"The data has {given} samples per second, but {what} is for {wanted}: set the data's sample_rate to "
            f"{wanted}, or {remedy} {given}."
        )


class SourceDataModule(LightningDataModule):
    """Base class of data modules: data loaders of sources, source tuples and mixtures.

    Subclasses define `part`, `identity`, `fresh_tuples`, `validation_tuples` and `mixture_tuples`.

    Args:
        batch_size: Number of sources, tuples or mixtures per batch.
        tuples: Load tuples of `num_sources` sources instead of single sources for training and validation, as
            estimating the likelihood requires. Training tuples are redrawn in every epoch; validation tuples are fixed.
        num_sources: Number S of sources per mixture, 2 to 64.
        weights: Weight of each source in a mixture, S positive numbers; null for the mean, 1/S each. Their sum must not
            exceed 1, so that mixtures have the range of the sources: [0, 1] for images, [-1, 1] (full scale) for audio.
            Codecs are trained on signals in that range, and audio files hold no other.
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
        tuples: bool,
        num_sources: int,
        weights: Sequence[float] | None,
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
        check_number("num_sources", num_sources, at_least=2, at_most=MAX_SOURCES, whole=True)
        if weights is not None:
            check_weights(weights, num_sources)
        self.batch_size, self.tuples, self.split_seed, self.num_workers = batch_size, tuples, split_seed, num_workers
        self.num_sources, self.weights = num_sources, None if weights is None else list(weights)
        self.predict_split, self.mixtures, self.num_mixtures = predict_split, mixtures, num_mixtures

    def part(self, name: Split) -> SourceDataset:
        """The dataset of a split; read on first access and kept."""
        raise NotImplementedError(f"{type(self).__name__} must define part()")

    def identity(self, part: Split) -> str:
        """Identifier of the sources of a split, unique to dataset, split and settings; used in names of cache files."""
        raise NotImplementedError(f"{type(self).__name__} must define identity()")

    def fresh_tuples(self, num_ranks: int, rank: int, seed: int) -> PaddedSampler:
        """Sampler of training tuples, redrawn in every epoch; each source is in at most one tuple per epoch."""
        raise NotImplementedError(f"{type(self).__name__} must define fresh_tuples()")

    def validation_tuples(self) -> Int[Tensor, "tuples num_sources"]:
        """Positions of the sources of each validation tuple, (tuples, num_sources)."""
        raise NotImplementedError(f"{type(self).__name__} must define validation_tuples()")

    def mixture_tuples(self) -> Int[Tensor, "mixtures num_sources"]:
        """Positions of the sources of each mixture in the split `predict_split`, (mixtures, num_sources)."""
        raise NotImplementedError(f"{type(self).__name__} must define mixture_tuples()")

    def setup(self, stage: str) -> None:
        """Read the split that the stage needs, so that missing data is reported before anything else starts."""
        self.part(self.predict_split if stage == "predict" else "train")

    def train_dataloader(self) -> DataLoader:
        """Loader of shuffled training sources, or of training tuples redrawn in every epoch.

        The order is a function of seed and epoch, so a resumed run continues with the batches of an uninterrupted run.
        """
        sources, seed = self.part("train"), torch.initial_seed() % 2**31
        if not self.tuples:
            check_batch(len(sources), self.batch_size, what=self.what)
            return self._loader(sources, DistributedSampler(sources, *self._ranks, seed=seed), training=True)
        tuples = self.fresh_tuples(*self._ranks, seed)
        check_batch(self.num_sources * tuples.num_items, self.batch_size, self.num_sources, self.what)
        return self._loader(FreshTuples(sources, self.num_sources), tuples, training=True)

    def val_dataloader(self) -> DataLoader:
        """Loader of validation sources, or of fixed validation tuples."""
        sources = self.part("validation")
        if not self.tuples:
            return self._loader(sources)
        tuples = FixedTuples(sources, self.validation_tuples())
        return self._loader(tuples, PaddedSampler(len(tuples), *self._ranks))

    def predict_dataloader(self) -> DataLoader:
        """Loader of the mixtures to separate, in list order."""
        tuples = self.mixture_tuples()
        if self.num_mixtures is not None and self.num_mixtures > len(tuples):
            raise LassError(
                f"There are {len(tuples)} mixtures, so num_mixtures must be 1…{len(tuples)}, not {self.num_mixtures}."
            )
        return self._loader(FixedTuples(self.part(self.predict_split), tuples[: self.num_mixtures]))

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
