"""Tests of SDR against museval, and of the spectral distance against a slow reference in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lass.codecs import AudioVQVAE
from lass.metrics import MeanAndDeviation, median_sdr, scoring_of, spectral_distance
from lass.metrics.bss_eval import museval_metrics
from lass.metrics.scoring import AudioScoring, ImageScoring
from lass.metrics.spectral import FLOOR
from lass.report.spectrograms import spectrograms

RATE = 2000


def test_sdr_is_musevals():
    torch.manual_seed(0)
    sources = torch.randn(3, 2, 3 * RATE)
    estimates = sources + torch.tensor([0.1, 0.5])[:, None] * torch.randn(3, 2, 3 * RATE)
    found = median_sdr(estimates, sources, RATE)
    for scores, reference, estimate in zip(found, sources, estimates, strict=True):
        sdr, *_ = museval_metrics().bss_eval(
            reference[..., None].numpy(), estimate[..., None].numpy(), window=RATE, hop=RATE
        )
        np.testing.assert_allclose(scores, np.median(sdr, axis=1), rtol=1e-4)
    # Noise at -20 and -6 dB: SDR is close to 20 and 6 dB, up to the part that the 512-tap filters compensate.
    assert found[:, 0] == pytest.approx(20, abs=0.5)
    assert found[:, 1] == pytest.approx(6, abs=0.5)


def test_silent_frames_are_left_out_and_silent_signals_have_no_sdr():
    torch.manual_seed(0)
    sources, noise = torch.randn(1, 2, 3 * RATE), torch.randn(1, 2, 3 * RATE)
    sources[0, 0, :RATE] = 0
    score = median_sdr(sources + 0.1 * noise, sources, RATE)
    assert score.isfinite().all()
    sources[0, 0] = 0
    assert median_sdr(sources + 0.1 * noise, sources, RATE).isnan().all()


def test_undefined_scores_are_left_out_of_means():
    mean = MeanAndDeviation(skip_undefined=True)
    mean.update(torch.tensor([1.0, math.nan, 3.0]))
    assert mean.compute() == {"mean": 2.0, "std": pytest.approx(math.sqrt(2)), "num": 2}
    mean.reset()
    mean.update(torch.tensor([math.nan]))
    found = mean.compute()
    assert found["num"] == 0
    assert found["mean"].isnan()


def test_spectral_distance_is_its_formula():
    torch.manual_seed(0)
    first, second = 0.1 * torch.randn(2, 2, 1, 600)
    expected = []
    for window in (64, 256):
        shape = np.hanning(window + 1)[:-1]
        shape = shape / np.linalg.norm(shape)
        total = []
        for one, other in zip(first[:, 0].numpy(), second[:, 0].numpy(), strict=True):
            spectra = []
            for signal in (one, other):
                padded = np.pad(signal, window // 2)
                starts = range(0, len(padded) - window + 1, window // 4)
                spectra.append(np.abs([np.fft.rfft(shape * padded[start : start + window]) for start in starts]))
            a, b = spectra
            logs = np.abs(np.log(a.clip(FLOOR)) - np.log(b.clip(FLOOR))).mean()
            total.append(np.linalg.norm(a - b) / np.linalg.norm(b) + logs)
        expected.append(total)
    np.testing.assert_allclose(spectral_distance(first, second, (64, 256)), np.mean(expected, 0), rtol=1e-4)
    assert not spectral_distance(first, first).any()


def test_the_gradient_of_silence_is_finite():
    silence = torch.zeros(1, 1, 4096, requires_grad=True)
    spectral_distance(silence, torch.zeros(1, 1, 4096)).sum().backward()
    assert silence.grad.isfinite().all()


def test_a_codec_is_trained_by_waveform_and_spectrogram():
    """A shift hardly changes the spectrogram; noise with an equal waveform error changes it."""
    torch.manual_seed(0)
    signal = torch.sin(torch.arange(8192) * 0.3)[None, None] * 0.1
    shifted = signal.roll(5, -1)
    noisy = signal + (shifted - signal).square().mean().sqrt() * torch.randn_like(signal)
    scoring = AudioScoring(RATE)
    by_shift, by_noise = scoring.losses(shifted, signal), scoring.losses(noisy, signal)
    assert by_shift["waveform"] == pytest.approx(by_noise["waveform"].item(), rel=0.05)
    assert by_shift["spectral"] < 0.2 * by_noise["spectral"]
    assert scoring.losses(signal, signal)["waveform"] < 1e-3
    score = scoring.score_reconstruction(signal + 0.01 / 2**0.5 * torch.randn_like(signal), signal)
    assert score["si_sdr{}_db"].item() == pytest.approx(20, abs=1)
    assert isinstance(scoring_of(AudioVQVAE(RATE, 4)), AudioScoring)
    assert isinstance(scoring_of(object()), ImageScoring)


def test_a_tone_is_a_line_in_the_spectrogram():
    time = torch.arange(22050) / 22050
    tone = torch.sin(2 * math.pi * 22050 / 8 * time)  # a quarter of the Nyquist frequency
    picture, silence = spectrograms(torch.stack([tone, torch.zeros(22050)])[:, None])
    brightness = picture.sum(0)
    assert brightness.argmax(0).float().mean() == pytest.approx(
        0.75 * picture.shape[1], abs=2
    )  # low frequencies at the bottom
    assert brightness.max() > 2
    assert silence.sum(0).max() < 0.1
