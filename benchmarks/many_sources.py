"""Time and memory of `separate_codes` against the number of sources, with an additive likelihood of a random world."""

from __future__ import annotations

import functools
import statistics
from pathlib import Path
from typing import Any

import torch
from measuring import LargestTensor, PeakMemory, WatchedPrior, cached_passes, cpu_seconds, progress, resident_bytes
from torch import Tensor
from worlds import random_prior

from lass import separate_codes
from lass.likelihood import AdditiveLikelihood
from lass.samplers import SequentialMonteCarlo

NUM_CHANNELS = 16
MIB, GIB = 2**20, 2**30


def random_additive(num_codes: int) -> AdditiveLikelihood:
    """Return a likelihood of random vectors, whose noise is about as large as that of the MNIST codec."""
    generator = torch.Generator().manual_seed(0)
    table = {
        "vectors": 2 * torch.randn(num_codes, NUM_CHANNELS, generator=generator),
        "variances": torch.rand(num_codes, generator=generator),
        "whitening": torch.eye(NUM_CHANNELS),
        "tail": torch.tensor([4.0, 8.0, 0.2]),
    }
    return AdditiveLikelihood(num_codes, table)


def random_mixture(likelihood: AdditiveLikelihood, num_sources: int, num_positions: int) -> tuple[Tensor, Tensor]:
    """Return codes (1, T), which this likelihood ignores, and latents (1, d, T), the noisy mean of random codes."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(likelihood.num_codes, (num_positions, num_sources), generator=generator)
    latents = likelihood.vectors[codes].mean(1) + 0.4 * torch.randn(num_positions, NUM_CHANNELS, generator=generator)
    return torch.zeros(1, num_positions, dtype=torch.long), latents.T[None]


def _separation(prior: Any, likelihood: AdditiveLikelihood, num_sources: int, num_candidates: int, num_positions: int):
    """Return a function without arguments that separates one mixture."""
    codes, latents = random_mixture(likelihood, num_sources, num_positions)
    sampler = SequentialMonteCarlo(num_candidates)
    priors = [prior] * num_sources
    return functools.partial(separate_codes, codes, priors, likelihood, sampler, mixture_latents=latents)


def against_sources(rounds: int = 5, num_candidates: int = 64, num_positions: int = 49) -> list[dict[str, Any]]:
    """K 256, T 49, 64 candidates, S = 2…6: median CPU time over rounds in alternation, and memory.

    With two sources all pairs of codes are enumerated; with more, tuples are drawn source by source.
    """
    prior, likelihood = random_prior(256, num_positions, 3, 128, 2), random_additive(256)
    sizes = range(2, 7)
    separate = {s: _separation(prior, likelihood, s, num_candidates, num_positions) for s in sizes}
    ours: dict[int, list[float]] = {s: [] for s in sizes}
    floor: dict[int, list[float]] = {s: [] for s in sizes}
    rows = []
    for s in sizes:  # first the memory, which also is the warm-up
        with progress(f"{s} sources: memory"):
            with PeakMemory() as memory:
                separate[s]()
            watched = WatchedPrior(prior)
            with LargestTensor() as largest:
                watched.untold = largest
                _separation(watched, likelihood, s, num_candidates, num_positions)()
        cache = prior.bytes_for(s * num_candidates, num_positions)
        rows.append(
            {"largest_temporary_mib": largest.bytes / MIB, "peak_mib": memory.added / MIB, "cache": cache / MIB}
        )
    for number in range(rounds):
        with progress(f"2 to 6 sources: round {number + 1} of {rounds}"):
            for s in sizes:
                floor[s].append(cpu_seconds(lambda s=s: cached_passes([prior], s * num_candidates, num_positions)))
                ours[s].append(cpu_seconds(separate[s]))
    return [
        {
            "case": "sources, K 256",
            "sources": s,
            "sampler": "SequentialMonteCarlo",
            "rounds": rounds,
            "ours_s": statistics.median(ours[s]),
            "to_three_sources": statistics.median(a / b for a, b in zip(ours[s], ours[3], strict=True)),
            "floor_s": statistics.median(floor[s]),
            "ours_to_floor": statistics.median(a / b for a, b in zip(ours[s], floor[s], strict=True)),
            "cache_mib": row.pop("cache"),
            **row,
        }
        for s, row in zip(sizes, rows, strict=True)
    ]


def large_codebook(num_candidates: int = 64, num_positions: int = 64) -> list[dict[str, Any]]:
    """K 16384, T 64, S = 4, 64 candidates: resident memory of the whole process at its peak."""
    with PeakMemory() as memory:
        prior, likelihood = random_prior(16384, num_positions, 3, 128, 2), random_additive(16384)
        separate = _separation(prior, likelihood, 4, num_candidates, num_positions)
        with progress("4 sources, K 16384"):
            time_s = cpu_seconds(separate)
    return [
        {
            "case": "sources, K 16384",
            "sources": 4,
            "sampler": "SequentialMonteCarlo",
            "ours_s": time_s,
            "peak_mib": memory.added / MIB,
            "peak_gib": max(memory.peak, resident_bytes()) / GIB,
        }
    ]


def draw_sources(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot time and memory against the number of sources, with least-squares lines through S ≥ 3."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 3.2), layout="constrained")
    panels = {
        "ours_s": ("CPU seconds per mixture", "o", "separation"),
        "peak_mib": ("added resident memory, MiB", "o", "separation"),
    }
    sources = torch.tensor([row["sources"] for row in rows], dtype=torch.float64)
    for axes, (name, (label, marker, legend)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        used = sources >= 3
        design = torch.stack([torch.ones_like(sources), sources], 1)
        fit = torch.linalg.lstsq(design[used], values[used, None]).solution
        axes.plot(sources, values, marker, label=legend)
        axes.plot(sources, design @ fit[:, 0], "-", color="grey", label="line through S ≥ 3")
        if name == "ours_s":
            axes.plot(sources, [row["floor_s"] for row in rows], "k--", label="floor: priors alone")
        axes.set(xlabel="sources", ylabel=label, xticks=sources.tolist(), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
