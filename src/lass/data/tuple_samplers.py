"""Distributed samplers of source tuples: each tuple is visited exactly once, for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import Dataset, DistributedSampler


class PaddedSampler(DistributedSampler):
    """Sequential distributed sampler that pads the shares of ranks with None instead of repeated positions.

    All shares have equal length, because all ranks must take equally many steps. Datasets of tuples skip None, so no
    tuple is counted twice.

    Args:
        num_items: Number of items in the dataset.
        num_ranks, rank: World size and rank of the distributed run.
        seed: Seed for subclasses that shuffle; combined with the epoch (`set_epoch`, called by Lightning).
    """

    def __init__(self, num_items: int, num_ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(cast(Dataset, range(num_items)), num_ranks, rank, shuffle=False, seed=seed)
        self.num_items = num_items

    def items(self) -> Sequence[Any]:
        """Items of this epoch, over all ranks."""
        return range(self.num_items)

    def __iter__(self) -> Iterator[Any]:
        """Items of this rank, padded with None."""
        share = list(self.items()[self.rank :: self.num_replicas])
        return iter(share + [None] * (self.num_samples - len(share)))


class RandomTuples(PaddedSampler):
    """Sampler of random tuples of S sources, redrawn in every epoch as a function of seed and epoch.

    Each source is in one tuple; sources left over, fewer than S, are in none.

    Args:
        num_available: Number of sources to draw from.
        num_sources: Number S of sources per tuple.
        num_ranks, rank, seed: See `PaddedSampler`.
    """

    def __init__(self, num_available: int, num_sources: int, num_ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(num_available // num_sources, num_ranks, rank, seed)
        self.num_available, self.num_sources = num_available, num_sources

    def items(self) -> Sequence[tuple[int, ...]]:
        """Tuples of this epoch, over all ranks."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_available, generator=generator)[: self.num_sources * self.num_items]
        return [tuple(positions) for positions in order.view(-1, self.num_sources).tolist()]


class ClassTuples(PaddedSampler):
    """Sampler of tuples of one chunk per class.

    Args:
        positions: For each class, the positions of its chunks in the dataset. With `aligned`, all classes have equally
            many, and the i-th chunks of all classes belong together.
        aligned: Combine the i-th chunks of all classes, in an order shuffled in every epoch. Otherwise tuples are
            redrawn at random in every epoch; each chunk is used at most once, until one class is exhausted.
        num_ranks, rank, seed: See `PaddedSampler`.
    """

    def __init__(
        self, positions: Sequence[Sequence[int]], aligned: bool, num_ranks: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        super().__init__(min(map(len, positions)), num_ranks, rank, seed)
        self.positions, self.aligned = positions, aligned

    def items(self) -> list[tuple[int, ...]]:
        """Tuples of this epoch, over all ranks."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        orders = [torch.randperm(len(of_class), generator=generator)[: self.num_items] for of_class in self.positions]
        if self.aligned:
            orders = orders[:1] * len(orders)
        chosen = ([of_class[i] for i in order.tolist()] for of_class, order in zip(self.positions, orders, strict=True))
        return list(zip(*chosen, strict=True))
