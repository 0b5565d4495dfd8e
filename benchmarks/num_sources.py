"""How often the number of sources is determined correctly: confusion matrix for 1 to 4 digits of MNIST.

    python benchmarks/num_sources.py                    # validation mixtures
    python benchmarks/num_sources.py test 100           # 100 test mixtures of each number

The mixtures are means of that many digits; a mixture of one digit is the digit itself.
"""

from __future__ import annotations

import sys
from itertools import count

import torch
from tqdm.auto import tqdm

from lass import Separator
from lass.data.images.mnist import MNIST
from lass.data.mixing import mix
from lass.separation import num_sources_probabilities

NUMBERS = (1, 2, 3, 4)


def main(split: str = "validation", num_mixtures: str = "20", folder: str = "pretrained/mnist") -> None:
    """Print the confusion matrix, and the fraction of correct numbers."""
    separator, num = Separator.from_pretrained(folder), int(num_mixtures)
    total = num * sum(NUMBERS)
    data = MNIST(predict_split=split, num_mixtures=-(-total // 2), batch_size=-(-total // 2))
    sources, indices = next(iter(data.predict_dataloader())).signals.flatten(0, 1), count()
    print(f"{folder}, {num} {split} mixtures of each number; rows: true number, columns: number found")
    correct = 0
    for number in NUMBERS:
        own, sources = sources[: num * number], sources[num * number :]
        found = torch.zeros(len(NUMBERS), dtype=torch.long)
        for mixture in tqdm(mix(own.unflatten(0, (num, number))).split(1), f"{number} sources", leave=False):
            found[num_sources_probabilities(separator, mixture, len(NUMBERS), indices=[next(indices)]).argmax()] += 1
        print(f"{number} | " + " ".join(f"{x:4d}" for x in found.tolist()), flush=True)
        correct += int(found[number - 1])
    print(f"correct: {correct} of {num * len(NUMBERS)}, {correct / num / len(NUMBERS):.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
