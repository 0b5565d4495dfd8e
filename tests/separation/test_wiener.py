"""`WienerFilter` against SciPy, and its properties."""

from __future__ import annotations

import math

import pytest
import scipy.signal
import torch

from lass import LassError
from lass.codecs import SpectrogramCodec
from lass.separation import Refinement, WienerFilter

#: Signals of order 1; float32 FFTs differ by 1e-6 between libraries, and from SciPy's float64 FFT.
CLOSE = {"atol": 1e-4, "rtol": 0}


class Identity:
    """Codec whose latents are the signal, because the filter only decodes."""

    num_codes = 1

    def decode_latents(self, latents):
        return latents

    encode = embed = decode = decode_latents


def tones(*frequencies, num_samples=4000):
    time = torch.arange(num_samples) / 8000
    return torch.stack([torch.sin(2 * math.pi * f * time)[None] for f in frequencies])[None]


def test_bins_are_shared_out_by_power_as_scipy_would():
    generator = torch.Generator().manual_seed(0)
    estimates = torch.randn(2, 2, 1, 4001, generator=generator)
    mixtures = torch.randn(2, 1, 4001, generator=generator)
    result = WienerFilter(256).refine(estimates, mixtures, Identity())
    options = {"window": "hann", "nperseg": 256, "noverlap": 192}

    def spectra(x):
        return scipy.signal.stft(x.double().numpy(), **options)[2]

    power = abs(spectra(estimates)) ** 2
    shared = power / power.sum(1, keepdims=True) * spectra(2 * mixtures)[:, None]
    expected = torch.from_numpy(scipy.signal.istft(shared, **options)[1][..., :4001])
    inner = slice(0, -256)  # SciPy has one more frame at the end
    torch.testing.assert_close(result.double()[..., inner], expected[..., inner], **CLOSE)


def test_estimates_mix_into_the_mixture_and_roughly_told_tones_come_out_clean():
    sources = tones(440, 1200)
    mixtures = sources.mean(1)
    rough = 0.3 * sources + 0.02 * torch.randn(sources.shape, generator=torch.Generator().manual_seed(1))
    result = WienerFilter(512).refine(rough, mixtures, Identity())
    torch.testing.assert_close(result.mean(1), mixtures, **CLOSE)
    error = (result - sources).square().mean() / sources.square().mean()
    assert error < 0.01 < (rough - sources).square().mean() / sources.square().mean()


def test_a_codec_of_powers_gives_them_without_a_detour_through_phases():
    """Where only one of two tones has power, its source gets the mixture; the rest is shared equally."""
    codec = SpectrogramCodec(8000, num_bands=2, num_mels=16, num_frames=2, window=256, floor=1e-3)
    sources = tones(440, 3000, num_samples=4096)
    latents = codec.encode_latents(sources[0])[None]
    result = WienerFilter(256).refine(latents, sources.mean(1), codec)
    torch.testing.assert_close(result.mean(1), sources.mean(1), **CLOSE)
    assert (result - sources)[..., 256:-256].square().mean() < 1e-3 * sources.square().mean()
    power = codec.power(latents[0])
    spectra = codec.spectrum(sources.mean(1)[:, 0])[0, :, 3]
    masked = WienerFilter(256)._spectra(result)[0, :, 0, :, 3]
    shares = power[:, :, 3] / power[:, :, 3].sum(0).clamp(min=1e-12)
    clear = power[:, :, 3].sum(0) > 1
    assert clear.sum() > 5
    assert ((masked - 2 * shares * spectra).abs()[:, clear] < 0.05 * spectra.abs().max()).all()
    with pytest.raises(LassError, match=r"frames of 256 samples: set the window of WienerFilter to that, not to 512"):
        WienerFilter(512).refine(latents, sources.mean(1), codec)


def test_silent_estimates_share_the_mixture_equally():
    mixtures = tones(440)[0]
    result = WienerFilter(512).refine(torch.zeros(1, 2, 1, 4000), mixtures, Identity())
    torch.testing.assert_close(result, mixtures[:, None].expand(1, 2, 1, 4000), **CLOSE)


def test_it_is_a_refinement_and_says_what_it_needs():
    assert isinstance(WienerFilter(), Refinement)
    for options in ({"window": 2}, {"window": 510}, {"exponent": 0.0}):
        with pytest.raises(LassError, match=r"(window|exponent) of WienerFilter must be"):
            WienerFilter(**options)
