"""Datasets of single sources and of source pairs, with batched access."""

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

    signals: Tensor  # (batch, channels, *space) float
    labels: Tensor  # (batch,) long


class SourcePairs(NamedTuple):
    """A batch of source tuples to be mixed."""

    signals: Tensor  # (batch, sources, channels, *space) float
    labels: Tensor  # (batch, sources) long
    indices: Tensor  # (batch,) long: position in the list of mixtures; -1 for pairs without a list


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


class FreshPairs(Dataset):
    """Dataset of pairs indexed by the positions of both sources, as drawn by `RandomPairing` or `ClassPairing`."""

    def __init__(self, sources: BatchedDataset) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return len(self.sources) // 2

    def __getitems__(self, pairs: list[tuple[int, int] | None]) -> SourcePairs:
        """The pairs as one batch. None (padding) is skipped, so a batch of padding is empty."""
        there = [pair for pair in pairs if pair is not None]
        first, second = [pair[0] for pair in there], [pair[1] for pair in there]
        return _pairs(self.sources, first, second, torch.full((len(there),), -1))


class FixedPairs(Dataset):
    """Dataset of a fixed list of pairs.

    Args:
        sources: Dataset of the single sources.
        pairs: Positions in `sources`, (num_mixtures, 2).
    """

    def __init__(self, sources: BatchedDataset, pairs: Int[Tensor, "num_mixtures 2"]) -> None:
        self.sources, self.pairs = sources, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, indices: list[int | None]) -> SourcePairs:
        """The pairs at `indices` as one batch. None (padding) is skipped, so a batch of padding is empty."""
        chosen = torch.tensor([index for index in indices if index is not None], dtype=torch.long)
        first, second = self.pairs[chosen].T.tolist()
        return _pairs(self.sources, first, second, chosen)


def _pairs(sources: BatchedDataset, first: list[int], second: list[int], indices: Int[Tensor, " batch"]) -> SourcePairs:
    if not first:  # datasets need not support empty batches: slice one from a non-empty batch
        something = _pairs(sources, [0], [0], torch.zeros(1, dtype=torch.long))
        return SourcePairs(*(field[:0] for field in something))
    a, b = sources.__getitems__(first), sources.__getitems__(second)
    return SourcePairs(torch.stack([a.signals, b.signals], 1), torch.stack([a.labels, b.labels], 1), indices)


def identity_collate(batch):
    """Collate function for datasets whose items are already batches: returns its argument."""
    return batch
