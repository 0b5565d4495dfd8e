"""Datasets of single sources, and of pairs of them, read a whole batch at a time."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

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
    """A batch of sources that are to be mixed."""

    signals: Tensor  # (batch, sources, channels, *space) float
    labels: Tensor  # (batch, sources) long
    indices: Tensor  # (batch,) long: the number of the mixture; -1 for pairs drawn afresh


class BatchedDataset(Protocol):
    """A dataset of single sources that are read a batch at a time."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Sources:
        """A batch at once."""
        ...


class SourceDataset(Dataset):
    """Single sources, given out a batch at a time; torch's DataLoader calls `__getitems__` when it is there."""

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__()")

    def __getitem__(self, index: int) -> Sources:
        return Sources(*(field[0] for field in self.__getitems__([index])))

    def __getitems__(self, indices: list[int]) -> Sources:
        """A batch at once."""
        raise NotImplementedError(f"{type(self).__name__} must define __getitems__()")

    def subset(self, positions: Int[Tensor, " subset"]) -> SourceDataset:
        """Some of the sources, in that order."""
        raise NotImplementedError(f"{type(self).__name__} must define subset()")

    def fingerprint(self) -> str:
        """Hexadecimal digits that differ where signals, labels or their order differ.

        Every source is read; datasets for which that is slow override it.
        """
        digest = hashlib.sha256()
        for source in map(self.__getitem__, range(len(self))):
            digest.update(fingerprint(source._asdict()).encode())
        return digest.hexdigest()[:16]


class ImageSources(SourceDataset):
    """Images in memory (or mapped into it) as bytes, given out as floats in [0, 1].

    Args:
        images: (num_images, channels, height, width).
        labels: (num_images,) the class of each image.
    """

    def __init__(
        self, images: UInt8[Tensor, "num_images channels height width"], labels: Int[Tensor, " num_images"]
    ) -> None:
        self.images, self.labels = images, labels.long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int] | Int[Tensor, " batch"]) -> Sources:
        """A batch at once."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return Sources(self.images[chosen].float() / 255, self.labels[chosen])

    def subset(self, positions: Int[Tensor, " subset"]) -> ImageSources:
        """See SourceDataset."""
        return ImageSources(self.images[positions], self.labels[positions])

    def fingerprint(self) -> str:
        """See SourceDataset; of the bytes."""
        return fingerprint({"images": self.images, "labels": self.labels})


class MirroredSources(ImageSources):
    """The same images, and after them their mirror images (left and right exchanged)."""

    def __len__(self) -> int:
        return 2 * len(self.images)

    def __getitems__(self, indices: list[int] | Int[Tensor, " batch"]) -> Sources:
        """A batch at once."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        signals, labels = super().__getitems__(chosen % len(self.images))
        mirrored = (chosen >= len(self.images)).view(-1, 1, 1, 1)
        return Sources(torch.where(mirrored, signals.flip(-1), signals), labels)

    def subset(self, positions: Int[Tensor, " subset"]) -> ImageSources:
        """Not meant: an image held out of training would stay there as its mirror image."""
        raise NotImplementedError("hold out images before mirroring them")

    def fingerprint(self) -> str:
        """See SourceDataset."""
        return f"mirrored-{super().fingerprint()}"


class FreshPairs(Dataset):
    """Pairs of sources, named by the positions of both: what a `RandomPairing` sampler asks for."""

    def __init__(self, sources: BatchedDataset) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return len(self.sources) // 2

    def __getitems__(self, pairs: list[tuple[int, int] | None]) -> SourcePairs:
        """The pairs asked for. None is left out: a batch that is padding only has no pairs."""
        there = [pair for pair in pairs if pair is not None]
        first, second = [pair[0] for pair in there], [pair[1] for pair in there]
        return _pairs(self.sources, first, second, torch.full((len(there),), -1))


class FixedPairs(Dataset):
    """A stored list of pairs.

    Args:
        sources: where the sources come from.
        pairs: (num_mixtures, 2), positions in `sources`.
    """

    def __init__(self, sources: BatchedDataset, pairs: Int[Tensor, "num_mixtures 2"]) -> None:
        self.sources, self.pairs = sources, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, indices: list[int | None]) -> SourcePairs:
        """The pairs of those numbers. None is left out: a batch that is padding only has no pairs."""
        chosen = torch.tensor([index for index in indices if index is not None], dtype=torch.long)
        first, second = self.pairs[chosen].T.tolist()
        return _pairs(self.sources, first, second, chosen)


def _pairs(sources: BatchedDataset, first: list[int], second: list[int], indices: Int[Tensor, " batch"]) -> SourcePairs:
    if not first:  # no dataset has to give out nothing: take the shapes of something
        something = _pairs(sources, [0], [0], torch.zeros(1, dtype=torch.long))
        return SourcePairs(*(field[:0] for field in something))
    a, b = sources.__getitems__(first), sources.__getitems__(second)
    return SourcePairs(torch.stack([a.signals, b.signals], 1), torch.stack([a.labels, b.labels], 1), indices)


def identity_collate(batch):
    """Collate function for datasets that already give out batches."""
    return batch
