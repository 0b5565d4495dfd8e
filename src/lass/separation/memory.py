"""Whether the priors' caches fit into memory, asked before a separation begins."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from lass.artifacts import Artifact
from lass.errors import LassError
from lass.priors import Prior, SizedPrior

USABLE = 0.9  # of what is free; others need some too
CGROUP = Path("/sys/fs/cgroup")  # limits of a container


def fit(
    priors: Sequence[Prior],
    num_mixtures: int,
    num_candidates: int,
    num_positions: int,
    device: torch.device,
    divisible: bool,
    reserved: int,
) -> tuple[int, int]:
    """How many mixtures, and how many candidates of each, the memory at hand has room for at once.

    Args:
        priors: one per source. Those that say nothing about their state (`bytes_for`) are taken to need nothing.
        num_mixtures: that are wanted at once; they go one after the other where there is no room.
        num_candidates: that the sampler wants.
        num_positions: codes of a sequence.
        device: where the priors run.
        divisible: whether candidates may go one group after the other, too.
        reserved: bytes for everything else.

    Raises:
        LassError: if there is no room for the candidates of one mixture where they have to be together, or for one.
    """
    free = free_bytes(priors, device)
    if free is None:
        return num_mixtures, num_candidates
    room = int(max(USABLE * free - reserved, free / 2))
    mixtures, candidates = num_mixtures, num_candidates
    while mixtures > 1 and bytes_for(priors, mixtures * candidates, num_positions) > room:
        mixtures //= 2
    while candidates and bytes_for(priors, mixtures * candidates, num_positions) > room:
        candidates = candidates // 2 if divisible else candidates - 1
    if candidates == num_candidates:
        return mixtures, candidates
    needed = bytes_for(priors, num_candidates if candidates else 1, num_positions)
    if divisible and candidates:
        warnings.warn(
            f"The priors' caches for {num_candidates} candidates take {_gib(needed)}, more than is free on {device}: "
            f"they go through the priors in groups of {candidates}.",
            stacklevel=3,
        )
        return mixtures, candidates
    which = f"{num_candidates} candidates" if candidates else "one candidate"
    advice = f"lower num_candidates to {candidates}" if candidates else f"free memory of {device}, or use one with more"
    raise LassError(
        f"The priors' caches for {which} of {num_positions} codes take {_gib(needed)}, but {_gib(room)} are free on "
        f"{device}: {advice}. Priors in half precision need half of it."
    )


def bytes_for(priors: Sequence[Prior], num_candidates: int, num_positions: int) -> int:
    """What the states of the priors take at most for so many candidates."""
    distinct = {id(prior): prior for prior in priors}.values()
    return sum(
        prior.bytes_for(num_candidates * sum(other is prior for other in priors), num_positions)
        for prior in distinct
        if isinstance(prior, SizedPrior)
    )


def free_bytes(priors: Sequence[Prior], device: torch.device) -> int | None:
    """Memory that could still be taken on the device, with the priors in it; None where that cannot be known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps what it freed
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    machine, container = psutil.virtual_memory().available, _free_in_container()
    free = machine if container is None else min(machine, container)
    # Weights that are mapped count as free, but have to be read again at every position once they lost their place.
    mapped = {id(prior): prior for prior in priors if isinstance(prior, Artifact) and prior.mapped}.values()
    return max(0, free - sum(parameter.nbytes for prior in mapped for parameter in prior.parameters()))


def _free_in_container() -> int | None:
    """What a limit for this group of processes leaves; None without one. What files take in memory can go."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    files = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
    return None if limit == "max" else int(limit) - used + files


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"
