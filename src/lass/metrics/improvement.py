"""Improvement of SI-SDR over the mixture (SI-SDRi), in the evaluation protocol of multi-source diffusion models."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WINDOW_SECONDS, HOP_SECONDS = 4.0, 2.0
SILENCE = 1.5e-5  # norm of a silent signal divided by its length in samples: -47 dB of full scale for 4 s at 22,050 Hz
EPSILON = 1e-8  # added to all energies


def si_sdr_improvement(
    estimates: Float[Tensor, "batch sources samples"],
    sources: Float[Tensor, "batch sources samples"],
    mixtures: Float[Tensor, "batch samples"],
    sample_rate: int,
) -> Float[Tensor, "batch sources"]:
    """SI-SDR of each estimate minus the SI-SDR of the mixture used as its estimate, mean over windows of a mixture.

    Windows have four seconds and start every two seconds; the last one is shorter if the signal ends in it. Windows in
    which fewer than two sources are active are left out. A source is active if its norm divided by the number of
    samples is at least 1.5e-5. In the other windows all sources are scored, also silent ones. The constant 1e-8 in
    `stabilised_si_sdr` decides about silence: the improvement of a silent source is the ratio of energies,
    10 log10 of (mixture + 1e-8) / (estimate + 1e-8), and a silent estimate of another source has an SI-SDR of 0 dB,
    which is often above that of the mixture. Values are finite, but not limited to ±`LIMIT_DB`.

    A signal of two seconds or less, which has no window in the protocol, is one window here. The protocol takes the
    mean over the windows of all songs; with signals of up to four seconds, which are one window each, the mean over
    mixtures is the same.

    Args:
        estimates: Estimated signals in the order of `sources`, (batch, sources, samples).
        sources: True signals, (batch, sources, samples).
        mixtures: Sum of the sources, (batch, samples). Its scale affects the scores of silent sources only.
        sample_rate: Sample rate in Hz; 22,050 in the protocol.

    Returns:
        Improvement in dB, (batch, sources); NaN for all sources of a mixture without a window to score.

    Source: Mariani et al. 2023 (arXiv:2302.02257), with the details of its published evaluation code.
    """
    window, hop = round(WINDOW_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    num_windows = max(1, math.ceil((sources.shape[-1] - (window - hop)) / hop))
    parts = [slice(i * hop, i * hop + window) for i in range(num_windows)]
    improvements = []
    for part in parts:
        truth = sources[..., part]
        gain = stabilised_si_sdr(estimates[..., part], truth)
        gain = gain - stabilised_si_sdr(mixtures[:, None, part].expand_as(truth), truth)
        scored = active(truth).sum(1, keepdim=True) > 1
        improvements.append(gain.masked_fill(~scored, torch.nan))
    return torch.stack(improvements).nanmean(0)


def stabilised_si_sdr(
    estimates: Float[Tensor, "*batch samples"], sources: Float[Tensor, "*batch samples"]
) -> Float[Tensor, "*batch"]:
    """SI-SDR in dB with a constant ε = 1e-8 added to all energies, and without subtraction of the means.

    10 log10 of (|a source|² + ε) / (|a source − estimate|² + ε), where a = (⟨estimate, source⟩ + ε) / (|source|² + ε).

    Source: as `si_sdr_improvement`; for ε = 0, Le Roux et al. 2019 (arXiv:1811.02508).
    """
    products, energies = (estimates * sources).sum(-1), sources.square().sum(-1)
    scaled = ((products + EPSILON) / (energies + EPSILON))[..., None] * sources
    errors = (scaled - estimates).square().sum(-1)
    return 10 * ((scaled.square().sum(-1) + EPSILON) / (errors + EPSILON)).log10()


def active(signals: Float[Tensor, "*batch samples"]) -> Bool[Tensor, "*batch"]:
    """Whether signals are not silent: their norm divided by the number of samples is at least 1.5e-5."""
    return torch.linalg.vector_norm(signals, dim=-1) / signals.shape[-1] >= SILENCE
