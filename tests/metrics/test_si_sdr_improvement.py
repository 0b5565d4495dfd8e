"""Tests of the improvement of SI-SDR against the protocol written out in NumPy, and of its special cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lass.metrics import si_sdr_improvement
from lass.metrics.bss_eval import LIMIT_DB
from lass.metrics.improvement import active, stabilised_si_sdr
from lass.metrics.scoring import AudioScoring

RATE = 500


def _reference_si_sdr(estimate, source):
    a = (estimate @ source + 1e-8) / (source @ source + 1e-8)
    noise = a * source - estimate
    return 10 * math.log10((a * a * (source @ source) + 1e-8) / (noise @ noise + 1e-8))


def _reference_improvement(estimates, sources, mixture, rate):
    """Mean over the windows in which two sources sound; all signals of one mixture, (sources, samples)."""
    length, rows = sources.shape[1], []
    starts = [start for start in range(0, length, 2 * rate) if start == 0 or start + 2 * rate < length]
    for start in starts:
        part = slice(start, min(start + 4 * rate, length))
        num_samples = part.stop - part.start
        if sum(np.sqrt((source[part] ** 2).sum()) / num_samples >= 1.5e-5 for source in sources) < 2:
            continue
        rows.append(
            [
                _reference_si_sdr(estimate[part], source[part]) - _reference_si_sdr(mixture[part], source[part])
                for estimate, source in zip(estimates, sources, strict=True)
            ]
        )
    return np.mean(rows, 0) if rows else np.full(len(sources), np.nan)


def signals(seconds, num_sources=4, batch=3):
    """Sources with another loudness each and an offset, and estimates with leakage, noise and another gain."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, num_sources, round(seconds * RATE))
    loudness = torch.linspace(0.05, 0.2, num_sources)[:, None]
    sources = loudness * torch.randn(shape, generator=generator) + 0.01
    estimates = 0.7 * sources + 0.1 * sources.sum(1, keepdim=True) + 0.02 * torch.randn(shape, generator=generator)
    return estimates, sources


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0, 4.0, 5.9, 6.0, 6.1, 11.888])
@pytest.mark.parametrize("num_sources", [2, 4])
def test_it_is_the_protocol_written_out(seconds, num_sources):
    """Some sources are silent in some windows, and one mixture has a single source in its first seconds."""
    estimates, sources = signals(seconds, num_sources)
    sources[1, 0, : 4 * RATE] = 0
    sources[2, 1:, : 4 * RATE] = 0
    found = si_sdr_improvement(estimates, sources, sources.sum(1), RATE)
    for i in range(len(sources)):
        each = [x[i].double().numpy() for x in (estimates, sources, sources.sum(1))]
        np.testing.assert_allclose(found[i], _reference_improvement(*each, RATE), atol=2e-3)
    assert found[0].isfinite().all()
    assert found[2].isnan().all() == (seconds <= 4)


def test_it_is_the_difference_of_two_si_sdrs_for_signals_that_sound():
    """In one window without silence, the constant is negligible, and torchmetrics' SI-SDR is an independent value."""
    estimates, sources = signals(4.0, batch=1)
    scores = AudioScoring(RATE).score_separation(estimates[:, :, None], sources[:, :, None])
    average = AudioScoring(RATE).score_separation(
        sources.mean(1, keepdim=True).expand_as(sources)[:, :, None], sources[:, :, None]
    )
    expected = scores["si_sdr_db"] - average["si_sdr_db"]
    torch.testing.assert_close(scores["si_sdri_db"], expected, atol=1e-3, rtol=0)
    assert (scores["si_sdri_db"] > 3).all()


@pytest.mark.parametrize("gain", [0.25, 3.0])
def test_gains_of_estimates_and_mixture_do_not_matter_for_sources_that_sound(gain):
    estimates, sources = signals(7.0)
    expected = si_sdr_improvement(estimates, sources, sources.sum(1), RATE)
    scaled = si_sdr_improvement(gain * estimates, sources, gain * sources.sum(1), RATE)
    torch.testing.assert_close(scaled, expected, atol=1e-2, rtol=0)


def test_the_mixture_itself_improves_nothing():
    """Also for a source that is silent, if the estimate is the sum of the sources; their mean is 12 dB quieter."""
    _, sources = signals(6.0, batch=1)
    sources[0, 2] = 0
    sums = sources.sum(1)
    same = si_sdr_improvement(sums[:, None].expand_as(sources), sources, sums, RATE)
    torch.testing.assert_close(same, torch.zeros(1, 4), atol=1e-4, rtol=0)
    mixtures = sources.mean(1)[:, None]
    averages = mixtures[:, None].expand(-1, 4, -1, -1)
    found = AudioScoring(RATE).score_separation(averages, sources[:, :, None], mixtures)["si_sdri_db"]
    expected = torch.zeros(1, 4)
    expected[0, 2] = 20 * math.log10(4)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert torch.equal(found, AudioScoring(RATE).score_separation(averages, sources[:, :, None])["si_sdri_db"])


def test_a_silent_source_is_scored_by_the_energies_of_estimate_and_mixture():
    estimates, sources = signals(4.0, batch=1)
    sources[:, 3] = 0
    found = si_sdr_improvement(estimates, sources, sources.sum(1), RATE)
    ratio = (sources.sum(1).square().sum(-1) + 1e-8) / (estimates[:, 3].square().sum(-1) + 1e-8)
    torch.testing.assert_close(found[:, 3], 10 * ratio.log10(), atol=1e-3, rtol=0)
    estimates[:, 3] = 0  # the best estimate; its value is finite, but may exceed the limit of other scores
    best = si_sdr_improvement(estimates, sources, sources.sum(1), RATE)
    assert (best[:, 3] > LIMIT_DB - 10).all()
    assert best.isfinite().all()
    scores = AudioScoring(RATE).score_separation(estimates[:, :, None], sources[:, :, None])
    torch.testing.assert_close(scores["si_sdri_db"], best, atol=1e-3, rtol=0)
    assert scores["si_sdr_db"].isnan().all()  # undefined with a silent source
    assert scores["sdr_db"].isnan().all()


def test_a_silent_estimate_has_an_si_sdr_of_0_db():
    """By the constant; the SI-SDR of `AudioScoring` has the lowest possible value instead."""
    estimates, sources = signals(4.0, batch=1)
    estimates[:, 0] = 0
    found = si_sdr_improvement(estimates, sources, sources.sum(1), RATE)
    torch.testing.assert_close(found[:, 0], -stabilised_si_sdr(sources.sum(1), sources[:, 0]), atol=1e-3, rtol=0)
    scores = AudioScoring(RATE).score_separation(estimates[:, :, None], sources[:, :, None])
    assert (scores["si_sdr_db"][:, 0] == -LIMIT_DB).all()


@pytest.mark.parametrize("num_samples", [RATE, 4 * RATE])
def test_silence_is_below_the_threshold_of_the_protocol(num_samples):
    """At -47 dB of full scale for four seconds at 22,050 Hz, the `silence_db` of experiments/slakh/four.yaml."""
    tone = torch.ones(num_samples) * 1.5e-5 * num_samples**0.5
    assert active(torch.stack([1.01 * tone, 0.99 * tone, 0 * tone])).tolist() == [True, False, False]
    rms = 1.5e-5 * (4 * 22050) ** 0.5
    assert 20 * math.log10(rms) == pytest.approx(-47, abs=0.05)


def test_the_mean_of_a_signal_is_part_of_it():
    """The protocol does not subtract means: an offset of the estimate is an error."""
    _, sources = signals(2.0)
    sources = sources - sources.mean(-1, keepdim=True)
    offset = sources.square().mean(-1, keepdim=True).sqrt()
    assert stabilised_si_sdr(sources + offset, sources) == pytest.approx(torch.zeros(3, 4), abs=0.01)
