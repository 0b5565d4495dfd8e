"""Process of a distributed count in tests, in a module that is imported fast."""

from __future__ import annotations

import torch
import torch.distributed as dist

from lass.likelihood.counts import SparseCounts
from lass.likelihood.ranks import of_all_ranks


def counted(rank: int) -> SparseCounts:
    """Return the counts of a rank: those of ranks 0 and 1 overlap in part, and rank 2 has none."""
    counts = SparseCounts(7, codec_fingerprint="a")
    if rank < 2:
        counts.add(*torch.randint(7, (3, 500 - 200 * rank), generator=torch.Generator().manual_seed(rank)))
    return counts


def put_together(rank: int, folder: str) -> None:
    """Merge the counts of all ranks in one of three processes, and save them."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3)
    total = counted(rank).empty()
    for counts in of_all_ranks(counted(rank)):
        total.merge(counts)
    total.save(f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()
