"""Distributed samplers of pairs: each pair is visited exactly once, for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import Dataset, DistributedSampler


class PaddedSampler(DistributedSampler):
    """Sequential distributed sampler that pads the shares of ranks with None instead of repeated positions.

    All shares have equal length, because all ranks must take equally many steps. Datasets of pairs skip None, so no
    pair is counted twice.

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


class RandomPairing(PaddedSampler):
    """Sampler of random pairs, redrawn in every epoch as a function of seed and epoch.

    Each source is in one pair; for an odd number of sources, one is left out.

    Args:
        num_sources: Number of sources to pair.
        num_ranks, rank, seed: See `PaddedSampler`.
    """

    def __init__(self, num_sources: int, num_ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(num_sources // 2, num_ranks, rank, seed)
        self.num_sources = num_sources

    def items(self) -> Sequence[tuple[int, int]]:
        """Pairs of this epoch, over all ranks."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_sources, generator=generator)[: 2 * self.num_items]
        return [tuple(pair) for pair in order.view(-1, 2).tolist()]


class ClassPairing(PaddedSampler):
    """Sampler of pairs of one chunk per class.

    Args:
        first, second: Positions in the dataset of the chunks of the first and the second class. With `aligned`, both
            have equal length and first[i] belongs to second[i].
        aligned: Pair first[i] with second[i], shuffled in every epoch. Otherwise pairs are redrawn at random in every
            epoch; each chunk is used at most once, until one class is exhausted.
        num_ranks, rank, seed: See `PaddedSampler`.
    """

    def __init__(
        self,
        first: Sequence[int],
        second: Sequence[int],
        aligned: bool,
        num_ranks: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(min(len(first), len(second)), num_ranks, rank, seed)
        self.first, self.second, self.aligned = first, second, aligned

    def items(self) -> list[tuple[int, int]]:
        """Pairs of this epoch, over all ranks."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.first), generator=generator)[: self.num_items]
        other = order if self.aligned else torch.randperm(len(self.second), generator=generator)[: self.num_items]
        return [(self.first[i], self.second[j]) for i, j in zip(order.tolist(), other.tolist(), strict=True)]
