"""A separator of two sources in disjoint frequency bands, made by hand, and songs whose sources are known."""

from __future__ import annotations

import numpy as np
import soundfile
import torch

from lass import Separator
from lass.likelihood import SparseLikelihood
from lass.samplers import Greedy
from lass.separation import HighestScore, WienerFilter

RATE, HOP, LEVELS = 8000, 256, 8
BANDS = ((0, 900), (1100, 4000))  # Hz, of the first and the second source
STEP_DB = 8.0  # between two levels


class BandCodec:
    """A code is the level of each of the two bands in a block, and is decoded to noise of these levels."""

    sample_rate, hop, margin, num_codes = RATE, HOP, 0, LEVELS**2

    def __init__(self):
        noise = torch.fft.rfft(torch.randn(HOP, generator=torch.Generator().manual_seed(0)))
        frequencies = torch.fft.rfftfreq(HOP, 1 / RATE)
        self.masks = torch.stack([(frequencies >= low) & (frequencies < high) for low, high in BANDS])
        carriers = torch.fft.irfft(noise * self.masks)
        self.carriers = carriers / carriers.square().mean(1, keepdim=True).sqrt()

    def encode(self, signal):
        padded = torch.nn.functional.pad(signal[:, 0], (0, -signal.shape[-1] % HOP)).unflatten(-1, (-1, HOP))
        bands = torch.fft.irfft(torch.fft.rfft(padded)[:, :, None] * self.masks)
        decibel = 10 * bands.square().mean(-1).clamp(min=1e-12).log10()
        low, high = (LEVELS - 1 + decibel / STEP_DB).round().clamp(0, LEVELS - 1).long().unbind(-1)
        return low * LEVELS + high

    def embed(self, codes):
        levels = torch.stack([codes // LEVELS, codes % LEVELS], 1)
        return torch.where(levels > 0, 10 ** ((levels - LEVELS + 1) * STEP_DB / 20), 0.0)

    def decode_latents(self, latents):
        return torch.einsum("nbt,bh->nth", latents, self.carriers).flatten(1)[:, None]

    def decode(self, codes):
        return self.decode_latents(self.embed(codes))


class OneBand:
    """Prior that is uniform over the codes in which the other band is silent."""

    num_codes = LEVELS**2

    def __init__(self, band):
        codes = torch.arange(self.num_codes)
        silent = (codes % LEVELS if band == 0 else codes // LEVELS) == 0
        self.log_prior = torch.where(silent, 0.0, -30.0).log_softmax(0)

    def start(self, num_sequences, condition=None):
        return num_sequences

    def step(self, state, codes):
        return self.log_prior.expand(state if codes is None else len(codes), -1)

    def select(self, state, parents):
        return len(parents)


def band_separator(names=("bass", "drums")):
    mixtures = torch.arange(LEVELS**2)
    pairs = (mixtures // LEVELS * LEVELS, mixtures % LEVELS, mixtures)
    likelihood = SparseLikelihood(LEVELS**2, *pairs, torch.zeros(LEVELS**2))
    priors = [OneBand(0), OneBand(1)]
    return Separator(
        BandCodec(), priors, likelihood, Greedy(), HighestScore(), WienerFilter(512), source_names=list(names)
    )


def two_sources(seconds=2.0, rate=RATE):
    """A melody below 900 Hz and bursts of noise above 1,100 Hz, (2, samples)."""
    time = np.arange(round(seconds * rate)) / rate
    notes = np.array([110.0, 165, 147, 220, 196, 131])[(3 * time).astype(int) % 6]
    phase = 2 * np.pi * np.cumsum(notes) / rate
    melody = sum(np.sin(k * phase) / k for k in (1, 2, 3)) * (0.2 + 0.8 * np.exp(-4 * (3 * time % 1)))
    noise = np.fft.rfft(np.random.default_rng(0).standard_normal(len(time)))
    frequencies = np.fft.rfftfreq(len(time), 1 / rate)
    bursts = np.fft.irfft(noise * (frequencies > 1200), len(time)) * np.exp(-12 * (4 * time % 1))
    return 0.2 * np.stack([melody, bursts])


def write_song(path, seconds=2.0, rate=RATE):
    """Write the sum of the sources and return them."""
    sources = two_sources(seconds, rate)
    soundfile.write(path, sources.sum(0), rate)
    return sources
