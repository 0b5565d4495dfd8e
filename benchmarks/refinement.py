"""PSNR of refined sources as a function of the refinement settings, starting from the true codes; no prior or sampler.

python benchmarks/refinement.py                 both datasets, needs runs/<dataset>/vqvae; MNIST needs DATA_ROOT
"""

from __future__ import annotations

import argparse
import itertools

import torch
from tqdm.auto import tqdm

from lass.codecs import load_codec
from lass.data.images.digits import Digits
from lass.data.images.mnist import MNIST
from lass.data.images.module import ImageDataModule
from lass.data.mixing import mix
from lass.metrics import psnr
from lass.separation import LatentDescent, NoRefinement

LEARNING_RATES, PROXIMAL_WEIGHTS = (0.003, 0.01, 0.03, 0.1), (1e-3, 1e-2, 1e-1)
DATASETS = {
    "digits": lambda num: Digits(batch_size=num, num_validation=200, predict_split="validation", num_mixtures=num),
    "mnist": lambda num: MNIST(batch_size=num, predict_split="validation", num_mixtures=num),
}


def table(name: str, data: ImageDataModule, steps: int) -> str:
    """Return the PSNR of every pair of settings as a Markdown table."""
    codec = load_codec(f"runs/{name}/vqvae/codec")
    sources = next(iter(data.predict_dataloader())).signals
    mixtures = mix(sources)
    with torch.no_grad():
        codes = codec.encode(sources.flatten(0, 1)).unflatten(0, sources.shape[:2])
        latents = codec.embed(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])

    def score(refinement) -> float:
        estimates = refinement.refine(latents, mixtures, codec)
        return psnr(estimates.flatten(0, 1), sources.flatten(0, 1)).mean().item()

    settings = list(itertools.product(LEARNING_RATES, PROXIMAL_WEIGHTS))
    scores = {
        (rate, weight): score(LatentDescent(steps, rate, max(1, steps // 5), weight))
        for rate, weight in tqdm(settings, desc=name)
    }
    lines = [
        f"{name}, {len(sources)} validation mixtures, {steps} steps; before refinement {score(NoRefinement()):.2f}"
    ]
    lines += ["| α | " + " | ".join(map(str, PROXIMAL_WEIGHTS)) + " |", "|---" * (1 + len(PROXIMAL_WEIGHTS)) + "|"]
    for rate in LEARNING_RATES:
        lines.append(f"| {rate} | " + " | ".join(f"{scores[rate, weight]:.2f}" for weight in PROXIMAL_WEIGHTS) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print one table per dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=list(DATASETS), help="digits, mnist; default both")
    parser.add_argument("--mixtures", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    for name in arguments.datasets:
        print(table(name, DATASETS[name](arguments.mixtures), arguments.steps), end="\n\n")


if __name__ == "__main__":
    main()
