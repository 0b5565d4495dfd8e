"""Memory planning: how many mixtures and candidates fit, given the size of the priors' caches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from lass.artifacts import Artifact
from lass.errors import LassError
from lass.priors import Prior, SizedPrior

USABLE = 0.9  # fraction of the free memory that is used; the rest is left to other processes
CGROUP = Path("/sys/fs/cgroup")  # memory limits of a container (cgroup v2)


def plan_chunks(
    priors: Sequence[Prior],
    num_mixtures: int,
    num_candidates: int,
    num_positions: int,
    device: torch.device,
    divisible: bool,
    reserved: int,
) -> tuple[int, int]:
    """Return how many mixtures, and how many candidates of each, fit into memory at once.

    Args:
        priors: One prior per source. A prior without `bytes_for` is assumed to need no memory for its state.
        num_mixtures: Desired number of mixtures at once; halved until they fit.
        num_candidates: Number of candidates of the sampler.
        num_positions: Number of codes of a sequence.
        device: Device of the priors.
        divisible: Whether the candidates of one mixture may be split into chunks.
        reserved: Bytes reserved for everything other than the caches.

    Raises:
        LassError: if a single candidate does not fit, or all candidates of a mixture do not fit and are not divisible.
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
    """Upper bound of the size of the priors' states for `num_candidates` candidates, in bytes."""
    distinct = {id(prior): prior for prior in priors}.values()
    return sum(
        prior.bytes_for(num_candidates * sum(other is prior for other in priors), num_positions)
        for prior in distinct
        if isinstance(prior, SizedPrior)
    )


def free_bytes(priors: Sequence[Prior], device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device; None if unknown. Mapped weights count as used."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # freed, but kept by torch
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    machine, container = psutil.virtual_memory().available, _free_in_container()
    free = machine if container is None else min(machine, container)
    # The system counts mapped weights as free; once evicted, they would be read from disk again at every position.
    mapped = {id(prior): prior for prior in priors if isinstance(prior, Artifact) and prior.mapped}.values()
    return max(0, free - sum(parameter.nbytes for prior in mapped for parameter in prior.parameters()))


def _free_in_container() -> int | None:
    """Bytes left under the memory limit of the cgroup; None without a limit. The page cache of files counts as free."""
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
