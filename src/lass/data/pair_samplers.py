"""How the ranks of a distributed run share pairs: every pair exactly once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import Dataset, DistributedSampler


class PaddedSampler(DistributedSampler):
    """Each rank's share of the positions of a dataset, in order.

    Shares have one length, because ranks have to make the same number of steps. Torch's sampler repeats positions to
    get there; here None takes their place, which datasets of pairs leave out, so that nothing is counted twice.

    Args:
        num_items: in the dataset.
        num_ranks, rank: of the distributed run.
        seed: for subclasses that shuffle, together with the epoch (`set_epoch`, which Lightning calls).
    """

    def __init__(self, num_items: int, num_ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(cast(Dataset, range(num_items)), num_ranks, rank, shuffle=False, seed=seed)
        self.num_items = num_items

    def items(self) -> Sequence[Any]:
        """What is shared in this epoch."""
        return range(self.num_items)

    def __iter__(self) -> Iterator[Any]:
        """This rank's share."""
        share = list(self.items()[self.rank :: self.num_replicas])
        return iter(share + [None] * (self.num_samples - len(share)))


class RandomPairing(PaddedSampler):
    """Pairs of sources, drawn anew in every epoch from seed and epoch: each source is in one; an odd one is left out.

    Args:
        num_sources: to pair up.
        num_ranks, rank, seed: see PaddedSampler.
    """

    def __init__(self, num_sources: int, num_ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(num_sources // 2, num_ranks, rank, seed)
        self.num_sources = num_sources

    def items(self) -> Sequence[tuple[int, int]]:
        """The pairs of this epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_sources, generator=generator)[: 2 * self.num_items]
        return [tuple(pair) for pair in order.view(-1, 2).tolist()]


class ClassPairing(PaddedSampler):
    """Pairs of a chunk of the first class and one of the second.

    Args:
        first, second: positions of the chunks of each class in the dataset; equally many and in step where `aligned`.
        aligned: pair those in step, in another order in every epoch; otherwise at random, anew in every epoch, each
            used once until one class is used up.
        num_ranks, rank, seed: see PaddedSampler.
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
        """The pairs of this epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.first), generator=generator)[: self.num_items]
        other = order if self.aligned else torch.randperm(len(self.second), generator=generator)[: self.num_items]
        return [(self.first[i], self.second[j]) for i, j in zip(order.tolist(), other.tolist(), strict=True)]
