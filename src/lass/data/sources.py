"""Datasets of single sources and of source tuples, with batched access."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from lass.artifacts import fingerprint


class Sources(NamedTuple):
    """A batch of single sources."""

    signals: Tensor  #: (batch, channels, *space) float
    labels: Tensor  #: (batch,) long


class SourceTuples(NamedTuple):
    """A batch of tuples of sources to be mixed."""

    signals: Tensor  #: (batch, sources, channels, *space) float
    labels: Tensor  #: (batch, sources) long
    indices: Tensor  #: (batch,) long: position in the list of mixtures; -1 for tuples without a list


@runtime_checkable
class BatchedDataset(Protocol):
    """A dataset of single sources that are read a batch at a time."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Sources:
        """The images at `indices` as one batch."""
        ...


class SourceDataset(Dataset):
    """Base dataset of single sources with batched access: torch's DataLoader calls `__getitems__` once per batch."""

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__()")

    def __getitem__(self, index: int) -> Sources:
        return Sources(*(field[0] for field in self.__getitems__([index])))

    def __getitems__(self, indices: list[int]) -> Sources:
        """The sources at `indices` as one batch."""
        raise NotImplementedError(f"{type(self).__name__} must define __getitems__()")

    def subset(self, positions: Int[Tensor, " subset"]) -> SourceDataset:
        """Dataset of the sources at `positions`, in that order."""
        raise NotImplementedError(f"{type(self).__name__} must define subset()")

    def fingerprint(self) -> str:
        """Hash of signals, labels and their order, 16 hexadecimal digits.

        Reads every source; datasets for which that is slow override it.
        """
        digest = hashlib.sha256()
        for source in map(self.__getitem__, range(len(self))):
            digest.update(fingerprint(source._asdict()).encode())
        return digest.hexdigest()[:16]


class ImageSources(SourceDataset):
    """Images stored as bytes, in memory or memory-mapped, and returned as floats in [0, 1].

    Args:
        images: 8-bit images, (num_images, channels, height, width).
        labels: Class of each image, (num_images,).
    """

    def __init__(
        self, images: UInt8[Tensor, "num_images channels height width"], labels: Int[Tensor, " num_images"]
    ) -> None:
        self.images, self.labels = images, labels.long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int] | Int[Tensor, " batch"]) -> Sources:
        """The images at `indices` as one batch."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return Sources(self.images[chosen].float() / 255, self.labels[chosen])

    def subset(self, positions: Int[Tensor, " subset"]) -> ImageSources:
        """See `SourceDataset`."""
        return ImageSources(self.images[positions], self.labels[positions])

    def fingerprint(self) -> str:
        """See `SourceDataset`; hash of the stored bytes."""
        return fingerprint({"images": self.images, "labels": self.labels})


class MirroredSources(ImageSources):
    """Images followed by their horizontal mirror images: item num_images + i mirrors item i."""

    def __len__(self) -> int:
        return 2 * len(self.images)

    def __getitems__(self, indices: list[int] | Int[Tensor, " batch"]) -> Sources:
        """A batch at once."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        signals, labels = super().__getitems__(chosen % len(self.images))
        mirrored = (chosen >= len(self.images)).view(-1, 1, 1, 1)
        return Sources(torch.where(mirrored, signals.flip(-1), signals), labels)

    def subset(self, positions: Int[Tensor, " subset"]) -> ImageSources:
        """Not supported: the mirror image of a held-out image could remain in the training set."""
        raise NotImplementedError("hold out images before mirroring them")

    def fingerprint(self) -> str:
        """See `SourceDataset`."""
        return f"mirrored-{super().fingerprint()}"


class FreshTuples(Dataset):
    """Dataset of tuples indexed by the positions of their sources, as drawn by `RandomTuples` or `ClassTuples`.

    Args:
        sources: Dataset of the single sources.
        num_sources: Number S of sources per tuple.
    """

    def __init__(self, sources: BatchedDataset, num_sources: int) -> None:
        self.sources, self.num_sources = sources, num_sources

    def __len__(self) -> int:
        return len(self.sources) // self.num_sources

    def __getitems__(self, tuples: list[tuple[int, ...] | None]) -> SourceTuples:
        """The tuples as one batch. None (padding) is skipped, so a batch of padding is empty."""
        there = [positions for positions in tuples if positions is not None]
        positions = torch.tensor(there, dtype=torch.long).view(-1, self.num_sources)
        return _read(self.sources, positions, torch.full((len(there),), -1))


class FixedTuples(Dataset):
    """Dataset of a fixed list of tuples.

    Args:
        sources: Dataset of the single sources.
        tuples: Positions in `sources`, (num_mixtures, num_sources).
    """

    def __init__(self, sources: BatchedDataset, tuples: Int[Tensor, "num_mixtures num_sources"]) -> None:
        self.sources, self.tuples = sources, tuples

    def __len__(self) -> int:
        return len(self.tuples)

    def __getitems__(self, indices: list[int | None]) -> SourceTuples:
        """The tuples at `indices` as one batch. None (padding) is skipped, so a batch of padding is empty."""
        chosen = torch.tensor([index for index in indices if index is not None], dtype=torch.long)
        return _read(self.sources, self.tuples[chosen], chosen)


def _read(
    sources: BatchedDataset, positions: Int[Tensor, "batch num_sources"], indices: Int[Tensor, " batch"]
) -> SourceTuples:
    # Datasets need not support empty batches: an empty batch is cut from one with the first source.
    signals, labels = sources.__getitems__(positions.flatten().tolist() or [0])
    signals, labels = signals[: positions.numel()], labels[: positions.numel()]
    return SourceTuples(signals.reshape(*positions.shape, *signals.shape[1:]), labels.reshape(positions.shape), indices)


def identity_collate(batch):
    """Collate function for datasets whose items are already batches: returns its argument."""
    return batch
