"""A world of two classes in disjoint frequency bands, which tiny networks learn to separate in seconds."""

from __future__ import annotations

import torch

from lass.data.module import SourceDataModule
from lass.data.sources import SourceDataset, Sources
from lass.data.tuple_samplers import ClassTuples
from lass.methods import ConvTasNet, Demucs

RATE, LENGTH, NUM = 8000, 2048, 24  # Hz; samples of a chunk; chunks per class and split
BANDS = {"low": (100, 900), "high": (2000, 3600)}  # Hz
TINY = {
    "conv-tasnet": {"kernel_size": 32, "num_filters": 48, "num_features": 24, "num_hidden": 32, "num_layers": 3},
    "demucs": {"channels": 4, "window": 1024},
}
CLASSES = {"conv-tasnet": ConvTasNet, "demucs": Demucs}


def tiny(name="conv-tasnet", classes=("low", "high"), **options):
    """Untrained network for this world."""
    torch.manual_seed(0)
    options = {"num_samples": LENGTH, **TINY[name], **({"num_stacks": 1} if name == "conv-tasnet" else {}), **options}
    return CLASSES[name](classes=list(classes), sample_rate=RATE, **options)


def noise_in(band, num, seed):
    """Noise in a band, (num, 1, LENGTH), with an RMS of 0.1."""
    noise = torch.randn(num, 1, LENGTH, generator=torch.Generator().manual_seed(seed))
    frequencies = torch.fft.rfftfreq(LENGTH, 1 / RATE)
    lowest, highest = BANDS[band]
    signals = torch.fft.irfft(torch.fft.rfft(noise) * ((frequencies >= lowest) & (frequencies < highest)))
    return 0.1 * signals / signals.square().mean(-1, keepdim=True).sqrt()


class Chunks(SourceDataset):
    """Chunks in memory."""

    def __init__(self, signals, labels):
        self.signals, self.labels = signals, labels

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        return Sources(self.signals[indices], self.labels[indices])


class TwoBands(SourceDataModule):
    """Data module of `NUM` chunks per class and split."""

    sample_rate = RATE

    def __init__(self, classes=("low", "high"), batch_size=8, tuples=True, weights=None, sample_rate=RATE):
        super().__init__(batch_size, tuples, 2, weights, 0, "test", None, None, 0)
        self.classes, self.sample_rate = list(classes), sample_rate

    def part(self, name):
        seed = ("train", "validation", "test").index(name)
        signals = [noise_in(band, NUM, 10 * seed + ("low", "high").index(band)) for band in self.classes]
        return Chunks(torch.cat(signals), torch.arange(2).repeat_interleave(NUM))

    def fresh_tuples(self, num_ranks, rank, seed):
        return ClassTuples([range(NUM), range(NUM, 2 * NUM)], False, num_ranks, rank, seed)

    def validation_tuples(self):
        return torch.arange(2 * NUM).view(2, NUM).T

    def mixture_tuples(self):
        return self.validation_tuples()
