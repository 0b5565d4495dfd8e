"""How the ranks of a distributed run share pairs: every pair exactly once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DistributedSampler


class EqualShares(DistributedSampler):
    """Each rank's share of the positions of a dataset, in order.

    Shares have one length, because ranks have to make the same number of steps. Torch's sampler repeats positions to
    get there; here None takes their place, which datasets of pairs leave out, so that nothing is counted twice.

    Args:
        num_items: in the dataset.
        num_ranks, rank: of the distributed run.
        seed: for subclasses that shuffle, together with the epoch (`set_epoch`, which Lightning calls).
    """

    def __init__(self, num_items: int, num_ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(range(num_items), num_ranks, rank, shuffle=False, seed=seed)
        self.num_items = num_items

    def items(self) -> Sequence[Any]:
        """What is shared in this epoch."""
        return range(self.num_items)

    def __iter__(self) -> Iterator[Any]:
        """This rank's share."""
        share = list(self.items()[self.rank :: self.num_replicas])
        return iter(share + [None] * (self.num_samples - len(share)))


class FreshPairing(EqualShares):
    """Pairs of sources, drawn anew in every epoch from seed and epoch: each source is in one; an odd one is left out.

    Args:
        num_sources: to pair up.
        num_ranks, rank, seed: see EqualShares.
    """

    def __init__(self, num_sources: int, num_ranks: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(num_sources // 2, num_ranks, rank, seed)
        self.num_sources = num_sources

    def items(self) -> Sequence[tuple[int, int]]:
        """The pairs of this epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_sources, generator=generator)[: 2 * self.num_items]
        return [tuple(pair) for pair in order.view(-1, 2).tolist()]
