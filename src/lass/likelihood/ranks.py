"""Exchange of counts between the ranks of a distributed run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist

from lass.likelihood.counts import SparseCounts


def of_all_ranks(counts: SparseCounts) -> Iterator[SparseCounts]:
    """Iterate over the counts of all ranks, on the device of this rank. A collective operation: all ranks must call it.

    Each rank broadcasts the number of its entries, then keys and counts, as tensors on the device of the process group
    (NCCL supports no other). At most one other rank's counts are in memory at a time.
    """
    if not (dist.is_available() and dist.is_initialized()):
        yield counts
        return
    own = counts.state_dict()
    for rank in range(dist.get_world_size()):
        size = torch.tensor(len(own["keys"]), device=counts.device)
        dist.broadcast(size, src=rank)
        if not int(size):
            continue
        sent = own if rank == dist.get_rank() else {name: tensor.new_empty(int(size)) for name, tensor in own.items()}
        for tensor in sent.values():
            dist.broadcast(tensor, src=rank)
        yield counts.empty().load_state_dict(sent)
