"""Shared rows of the priors against one row per candidate and source, on a real mixture with the shipped models.

python benchmarks/row_sharing.py
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from lass import Separator, read_image
from lass.priors import Prior
from lass.samplers import Ancestral, SequentialMonteCarlo, TopK
from lass.separation import batched_priors

REPETITIONS = 5


class UnsharedRows:
    """Stands in for the batch of one unconditional prior: evaluates every sequence, also those with equal pasts."""

    def __init__(self, prior: Prior, sources: list[int], conditions: Tensor | None) -> None:
        assert conditions is None
        self.prior, self.sources = prior, sources

    def start(self, num_mixtures: int, num_candidates: int, device: torch.device) -> tuple[Tensor, Tensor]:
        shape = (len(self.sources), num_mixtures, num_candidates)
        self.rows = torch.arange(shape[0] * shape[1] * shape[2], device=device).view(shape)
        state = self.prior.start(self.rows.numel(), None)
        self.state = self.prior.select(state, self.rows.new_zeros(1))  # at the first position all sequences are equal
        self.length = 0
        return self.prior.step(self.state, None).float(), self.rows.new_zeros(*shape[:2], 1)

    def step(self, parents: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        before = self.rows if self.length else torch.zeros_like(self.rows)
        continued = before.gather(2, parents.expand(len(self.sources), -1, -1)).flatten()
        self.state, self.length = self.prior.select(self.state, continued), self.length + 1
        return self.prior.step(self.state, codes[..., self.sources].movedim(-1, 0).flatten()).float(), self.rows


def main() -> None:
    """Print seconds per mixture of both ways, in alternating runs, and their ratio."""
    separator = Separator.from_pretrained("pretrained/mnist")
    mixture_codes, latents = separator.encode(read_image("docs/mixture.png")[None])
    flat = None if latents is None else latents.flatten(2)
    shared = batched_priors._PriorBatch
    print(f"{torch.get_num_threads()} threads, {REPETITIONS} runs each")
    for sampler in (SequentialMonteCarlo(512), Ancestral(512), TopK(512, k=32)):
        separator.sampler = sampler
        times: dict[type, list[float]] = {shared: [], UnsharedRows: []}
        for seed in range(-1, REPETITIONS):
            for batch, seconds in times.items():
                batched_priors._PriorBatch = batch
                begun = time.perf_counter()
                separator.candidates(mixture_codes.flatten(1), flat, seed=max(seed, 0))
                if seed >= 0:  # the first run is a warm-up
                    seconds.append(time.perf_counter() - begun)
        one, other = (statistics.median(seconds) for seconds in times.values())
        name = type(sampler).__name__
        print(f"{name:22} shared {one:5.2f} s, unshared {other:5.2f} s, unshared / shared {other / one:.2f}")


if __name__ == "__main__":
    main()
