"""Loading time, memory and speed of a prior of the size of the published ImageNet model.

python benchmarks/large_prior.py [--dtype bfloat16] [--candidates 8] [--positions 16]

The weights are random; neither time nor memory depends on their values. Each measurement runs in its own process, so
that its peak memory is measured separately. The figures for GPUs are computed from the sizes of weights and caches, not
measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lass.likelihood import SparseCounts
from lass.priors import TransformerPrior, load_prior
from lass.samplers import TopK
from lass.separation import separate_codes
from lass.separation.memory import USABLE, bytes_for

SIZES = {"num_codes": 16384, "num_positions": 256, "dim": 1536, "num_layers": 48, "num_heads": 24, "num_classes": 1000}
GPUS = {"24 GB": 24e9, "80 GB": 80e9}
GIB = 2**30


def main() -> None:
    """Create the prior, then measure loading and separation in a new process."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    options.add_argument("--candidates", type=int, default=8)
    options.add_argument("--positions", type=int, default=16)
    options.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.candidates, options.positions)))
        return
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        make(folder, getattr(torch, options.dtype))
        print(f"made and saved in {time.perf_counter() - begun:.0f} s, {options.dtype}", flush=True)
        arguments = [f"--candidates={options.candidates}", f"--positions={options.positions}", f"--measure={folder}"]
        run = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stderr)
        found = json.loads(run.stdout.splitlines()[-1])
    threads = torch.get_num_threads()
    print(f"{found['parameters'] / 1e9:.2f} billion parameters, {found['weights'] / GIB:.2f} GiB")
    print(f"loaded in {found['load_s']:.2f} s, {found['loaded'] / GIB:.2f} GiB more than without it")
    print(
        f"{options.candidates} candidates, both sources: {found['position_s']:.2f} s per position ({threads} threads), "
        f"peak {found['peak'] / GIB:.2f} GiB"
    )
    for gpu, room in GPUS.items():
        most = (USABLE * (room - found["weights"]) - 2**30) / found["bytes_per_candidate"]  # 1 GiB for the posterior
        print(f"{gpu}: at most {int(most)} candidates at once ({found['bytes_per_candidate'] / GIB:.2f} GiB each)")


def make(folder: str, dtype: torch.dtype) -> None:
    """Save a prior with random weights, created directly in its data type."""
    with torch.device("meta"):
        prior = TransformerPrior(**SIZES)
    prior = prior.to(dtype).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(std=0.02)
    prior.save_pretrained(folder)


def measure(folder: Path, num_candidates: int, num_positions: int) -> dict[str, float]:
    """Return times in seconds and memory in bytes."""
    before = peak()
    begun = time.perf_counter()
    prior = load_prior(folder)
    load_s, loaded = time.perf_counter() - begun, peak() - before
    counts = SparseCounts(prior.num_codes)
    first, second = torch.randint(prior.num_codes, (2, 10**6))
    counts.add(first, second, (first + second) // 2)
    parts = ([prior, prior], counts.likelihood(), TopK(num_candidates, k=32))
    codes, classes = torch.randint(4000, 12000, (1, num_positions)), torch.tensor([[207, 985]])
    separate_codes(codes[:, :2], *parts, conditions=classes)  # read the mapped weights from their file
    begun = time.perf_counter()
    separate_codes(codes, *parts, conditions=classes)
    return {
        "parameters": sum(parameter.numel() for parameter in prior.parameters()),
        "weights": sum(parameter.nbytes for parameter in prior.parameters()),
        "load_s": load_s,
        "loaded": loaded,
        "position_s": (time.perf_counter() - begun) / num_positions,
        "peak": peak(),
        "bytes_per_candidate": (bytes_for([prior, prior], 101, 256) - bytes_for([prior, prior], 1, 256)) / 100,
    }


def peak() -> int:
    """Peak resident memory of the process in bytes; pages of a mapped file count once they have been read."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
