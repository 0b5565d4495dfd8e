"""Codec of power spectrograms: its latents against SciPy, sums of powers, codes of bands, sound, bad settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch

from lass import LassError
from lass.artifacts import fingerprint
from lass.codecs import BlockCodec, LatentCodec, PowerCodec, SpectrogramCodec, load_codec, pad_to_codes
from lass.codecs.spectrogram import mel_filters

RATE = 8000
SETTINGS = {"codes_per_band": 5, "num_bands": 4, "num_mels": 16, "num_frames": 2, "window": 256, "floor": 1e-3}


@pytest.fixture
def codec():
    codec = SpectrogramCodec(RATE, **SETTINGS)
    codec.codebook.normal_(generator=torch.Generator().manual_seed(0))
    return codec


def tone(frequency, num_samples=4096):
    return torch.sin(2 * math.pi * frequency * torch.arange(num_samples) / RATE)[None, None]


def test_latents_are_log_powers_of_mel_bands(codec):
    signal = 0.1 * torch.randn(2, 1, 1024, generator=torch.Generator().manual_seed(1))
    found = codec.encode_latents(signal)
    assert found.shape == (2, 8, 32)  # 4 mel bands × 2 frames; 8 blocks × 4 groups
    assert (codec.hop, codec.block, codec.num_codes) == (32, 4, 20)
    _, _, spectra = scipy.signal.stft(signal[:, 0].double().numpy(), window="hann", nperseg=256, noverlap=192)
    power = (abs(spectra) * 128) ** 2  # SciPy divides by the sum of the window
    bands = codec.filters.double().numpy() @ power
    for block, group, mel, frame in np.ndindex(8, 4, 4, 2):
        expected = np.log(bands[:, 4 * group + mel, 2 * block + frame] + 1e-3)
        np.testing.assert_allclose(found[:, 2 * mel + frame, 4 * block + group], expected, atol=1e-3)


@pytest.mark.parametrize(("num_frequencies", "num_mels", "rate"), [(129, 16, 8000), (513, 64, 22050)])
def test_mel_filters_are_those_of_torchaudio(num_frequencies, num_mels, rate):
    functional = pytest.importorskip("torchaudio.functional")
    options = {"norm": None, "mel_scale": "htk"}
    expected = functional.melscale_fbanks(num_frequencies, 0.0, rate / 2, num_mels, rate, **options).T
    torch.testing.assert_close(mel_filters(num_frequencies, num_mels, rate), expected, atol=1e-4, rtol=0)


def test_each_position_has_the_nearest_code_of_its_group(codec):
    latents = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(2))
    codes = codec.quantize(latents)
    assert torch.equal(codes // 5, torch.arange(4).repeat(3).expand(3, -1))
    distances = (latents.movedim(1, -1)[:, :, None] - codec.codebook).square().sum(-1)
    for group in range(4):
        own = distances[:, group::4, 5 * group : 5 * group + 5]
        assert torch.equal(codes[:, group::4], 5 * group + own.argmin(-1))
    torch.testing.assert_close(codec.embed(codes).movedim(1, -1), codec.codebook[codes])


def test_powers_are_decoded_up_to_the_smoothing_of_the_bands(codec):
    """Powers that are equal at all frequencies of a frame have no smoothing, so they are decoded exactly."""
    levels = torch.rand(1, 1, 6, generator=torch.Generator().manual_seed(3)) + 0.1
    values = (levels + 1e-3).log().expand(1, 16, 6)
    latents = values.unflatten(1, (4, 4)).unflatten(-1, (3, 2)).permute(0, 2, 4, 3, 1).flatten(1, 2).flatten(2)
    torch.testing.assert_close(codec.power(latents), levels.expand(1, 129, 6), rtol=1e-4, atol=1e-6)
    silence = torch.full((1, 8, 4), math.log(1e-3))
    assert codec.power(silence).max() < 1e-8


def test_powers_of_sources_add_up(codec):
    low, high = tone(300), tone(2500)
    latents = [codec.encode_latents(x).exp() - 1e-3 for x in (low, high, 0.5 * (low + high))]
    inner = slice(8, -8)
    expected = 0.25 * (latents[0] + latents[1])
    torch.testing.assert_close(latents[2][..., inner], expected[..., inner], rtol=0.02, atol=0.02 * expected.max())


def test_a_tone_sounds_like_itself(codec):
    signal = tone(1000)
    decoded = codec.decode_latents(codec.encode_latents(signal))
    assert decoded.shape == signal.shape
    power = torch.fft.rfft(decoded[0, 0]).abs().square()
    loudest = power.argmax().item() * RATE / 4096
    assert abs(loudest - 1000) < 60  # mel bands are that wide there
    assert decoded.square().mean().item() == pytest.approx(signal.square().mean().item(), rel=0.5)


def test_signals_are_padded_to_whole_blocks(codec):
    assert codec.encode(torch.zeros(1, 1, 130)).shape == (1, 8)
    assert pad_to_codes(codec, torch.zeros(1, 1, 130)).shape == (1, 1, 256)
    assert isinstance(codec, BlockCodec)
    assert isinstance(codec, PowerCodec)
    assert isinstance(codec, LatentCodec)
    for signal in (torch.zeros(1, 2, 400), torch.zeros(1, 1, 31)):
        with pytest.raises(LassError, match=r"mono signals of at least 32 samples"):
            codec.encode(signal)


def test_a_saved_codec_is_the_same(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    loaded = load_codec(tmp_path)
    assert fingerprint(loaded) == fingerprint(codec)
    signal = tone(700)
    assert torch.equal(loaded.encode(signal), codec.encode(signal))
    torch.testing.assert_close(loaded.power(loaded.encode_latents(signal)), codec.power(codec.encode_latents(signal)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 250}, "window must be a multiple of 4 samples, not 250"),
        ({"window": 2**15}, "window"),
        ({"num_mels": 18}, "num_mels must be a multiple of num_bands = 4, not 18"),
        ({"num_mels": 128}, "num_mels = 128 is too large for window = 256"),
        ({"num_bands": 3, "num_mels": 15}, r"A block has 128 samples .* expected a multiple of num_bands = 3"),
        ({"floor": 0.0}, "floor must be"),
        ({"codes_per_band": 0}, "codes_per_band must be"),
    ],
)
def test_bad_settings_are_named(options, words):
    with pytest.raises(LassError, match=words):
        SpectrogramCodec(RATE, **{**SETTINGS, **options})
