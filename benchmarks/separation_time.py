"""Time of one separation (Table 4): one mixture, ten repetitions, with the shipped models.

python benchmarks/separation_time.py
"""

from __future__ import annotations

import statistics
import time

import torch

from lass import Separator, SparseCounts, read_image
from lass.codecs import codebook_of
from lass.samplers import TopK
from lass.separation import LatentDescent

REPETITIONS = 10


def main() -> None:
    """Print the time of our settings, and of the paper's settings with the same codec and prior."""
    ours = Separator.from_pretrained("pretrained/mnist")
    counts = SparseCounts.load("pretrained/mnist/counts.safetensors").likelihood(codebook=codebook_of(ours.codec))
    paper = Separator(ours.codec, ours.priors, counts, TopK(512, k=32), refinement=LatentDescent(steps=500))
    mixture = read_image("docs/mixture.png")
    print(f"{torch.get_num_threads()} threads, {REPETITIONS} separations each")
    for name, separator in {"ours": ours, "the paper's recipe": paper}.items():
        separator.separate(mixture)  # warm-up
        times = []
        for seed in range(REPETITIONS):
            begun = time.perf_counter()
            separator.separate(mixture, seed=seed)
            times.append(time.perf_counter() - begun)
        sampler = separator.sampler
        print(f"{name:20} {statistics.mean(times):5.2f} ± {statistics.stdev(times):.2f} s   {sampler}")


if __name__ == "__main__":
    main()
