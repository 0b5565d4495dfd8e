"""Separation of long signals in windows: no seams, and codes carried over, for any length.

The codes of windows and of the whole signal must be equal although their convolutions round differently. The signals
are fixed, and their latents and scores differ by far more than the 1e-6 by which CPUs and BLAS libraries differ.
"""

from __future__ import annotations

import pytest
import torch
from toy_worlds import random_prior

from lass import LassError, Separator
from lass.codecs import AudioVQVAE, ImageVQVAE, SpectrogramCodec
from lass.likelihood import LogSumMoments, SparseLikelihood
from lass.samplers import Ancestral, Greedy
from lass.separation import HighestScore, LatentDescent, NoRefinement, WienerFilter
from lass.separation.streaming import num_windows, separate_stream

NUM_CODES = 5
CLOSE = {"atol": 1e-4, "rtol": 0}  # signals of order 1; another code changes them by more than 1e-2


@pytest.fixture
def separator():
    """Separator with priors that depend on the previous code only, so that a context of one code suffices."""
    torch.manual_seed(0)
    codec = AudioVQVAE(8000, NUM_CODES, strides=(2, 2), width=8, latent_dim=4).eval()
    codec.quantizer.codebook.copy_(codec.encode_latents(torch.randn(1, 1, 400))[0, :, ::20].T[:NUM_CODES])
    generator = torch.Generator().manual_seed(1)
    triples = torch.cartesian_prod(*[torch.arange(NUM_CODES)] * 3)
    log_likelihood = torch.rand(len(triples), generator=generator).log()
    likelihood = SparseLikelihood(NUM_CODES, *triples.T, log_likelihood)
    priors = [random_prior(generator, NUM_CODES, zeros=False) for _ in range(2)]
    return Separator(codec, priors, likelihood, Greedy(), HighestScore(), NoRefinement())


def reader(signal, requests=None):
    """Return a function that reads from memory, with zeros beyond the end."""

    def read(start, length):
        if requests is not None:
            requests.append(length)
        piece = signal[:, start : start + length]
        return torch.nn.functional.pad(piece, (0, length - piece.shape[1]))

    return read


@pytest.mark.parametrize(("window", "context"), [(40, 1), (41, 30), (400, 10), (17, 3)])
@pytest.mark.parametrize("num_samples", [4, 319, 320, 533])  # 1, 80, 80 and 134 codes
def test_windows_give_what_one_long_window_gives(separator, window, context, num_samples):
    torch.manual_seed(2)
    signal = torch.randn(2, num_samples)
    pieces = list(separate_stream(reader(signal), num_samples, separator, window=window, context=context))
    whole = separator.separate_batch(signal[:, None]).estimates[:, :, 0]  # (channels, sources, samples)
    torch.testing.assert_close(torch.cat(pieces, -1), whole.transpose(0, 1), **CLOSE)


@pytest.mark.parametrize("refined", [16, 24, 200])  # 24: its hop of 6 is not a multiple of the codec's hop of 4
@pytest.mark.parametrize("num_samples", [479, 602])
def test_a_filter_has_no_seams_either(separator, refined, num_samples):
    torch.manual_seed(2)
    signal = torch.randn(2, num_samples)
    separator.refinement = WienerFilter(refined)
    pieces = list(separate_stream(reader(signal), num_samples, separator, window=40, context=1))
    assert len(pieces) > 2
    whole = separator.separate_batch(signal[:, None]).estimates[:, :, 0]
    torch.testing.assert_close(torch.cat(pieces, -1), whole.transpose(0, 1), **CLOSE)


@pytest.fixture
def spectrogram_separator():
    """The same with a codec that has three codes for the same samples."""
    generator = torch.Generator().manual_seed(0)
    codec = SpectrogramCodec(8000, codes_per_band=4, num_bands=3, num_mels=6, num_frames=3, window=64)
    latents = codec.encode_latents(torch.randn(1, 1, 4000, generator=generator))
    for band in range(3):
        codec.codebook[4 * band : 4 * band + 4] = latents[0, :, band : band + 12 : 3].T
    moments = LogSumMoments(12, 6, 3, codec.floor)
    codes = torch.randint(12, (300,), generator=generator)
    moments.add(codes, codec.codebook[codes][:, None].expand(-1, 2, -1), torch.randn(300, 6, generator=generator))
    priors = [random_prior(generator, 12, zeros=False) for _ in range(2)]
    return Separator(codec, priors, moments.likelihood(codec.codebook), Greedy(), HighestScore(), WienerFilter(64))


@pytest.mark.parametrize("num_samples", [16, 700, 1603])
def test_windows_hold_whole_blocks_of_codes(spectrogram_separator, num_samples):
    signal = torch.randn(2, num_samples, generator=torch.Generator().manual_seed(2))
    pieces = separate_stream(reader(signal), num_samples, spectrogram_separator, window=39, context=6)
    whole = spectrogram_separator.separate_batch(signal[:, None]).estimates[:, :, 0]
    torch.testing.assert_close(torch.cat(list(pieces), -1), whole.transpose(0, 1), **CLOSE)
    for window, context in ((40, 6), (39, 5)):
        with pytest.raises(LassError, match=r"multiples of 3 code positions, not"):
            next(separate_stream(reader(signal), num_samples, spectrogram_separator, window=window, context=context))


def test_the_mean_of_candidates_is_decoded_where_the_separator_averages(separator):
    """Averaging identical greedy candidates changes nothing; averaging drawn candidates changes the estimate."""
    signal = torch.randn(1, 400, generator=torch.Generator().manual_seed(2))

    def run():
        return torch.cat(list(separate_stream(reader(signal), 400, separator, window=100, context=5)), -1)

    separator.posterior_mean = True
    averaged = run()
    separator.posterior_mean = False
    torch.testing.assert_close(averaged, run(), **CLOSE)
    separator.sampler, separator.posterior_mean = Ancestral(20), True
    averaged = run()
    whole = separator.separate_batch(signal[:, None]).estimates[0, :, 0]
    torch.testing.assert_close(averaged[:, 0], whole, **CLOSE)
    separator.posterior_mean = False
    assert (averaged - run()).abs().max() > 0.01


def test_without_its_past_a_window_decides_otherwise(separator):
    """Check of the test above: without context the result differs, so the context is needed and used."""
    torch.manual_seed(2)
    signal = torch.randn(1, 533)
    whole = separator.separate_batch(signal[:, None]).estimates[0]
    pieces = list(separate_stream(reader(signal), 533, separator, window=40, context=0))
    assert (torch.cat(pieces, -1) - whole).abs().max() > 0.01


def test_what_is_read_and_given_out_at_once_does_not_grow_with_the_length(separator):
    requests = []
    signal = torch.randn(1, 2000)
    pieces = separate_stream(reader(signal, requests), 2000, separator, window=50, context=10)
    most = max(piece.shape[-1] for piece in pieces)
    around = 2 * separator.codec.margin
    assert max(requests) <= (50 + around) * separator.codec.hop
    assert most <= (50 + around) * separator.codec.hop
    assert max(requests) < 2000
    assert num_windows(20_000, separator.codec, 50, 10) == 1 + -(-(5000 - 50) // 40)


def test_random_windows_differ_by_seed_only(separator):
    separator.sampler = Ancestral(3)
    signal = torch.randn(1, 400)

    def run(seed):
        return torch.cat(list(separate_stream(reader(signal), 400, separator, window=40, context=5, seed=seed)), -1)

    once = run(0)
    torch.testing.assert_close(run(0), once, **CLOSE)
    assert (run(1) - once).abs().max() > 0.01


def test_what_cannot_be_streamed_is_refused(separator):
    with pytest.raises(LassError, match="3 samples, fewer than one code stands for: expected 4 or more"):
        next(separate_stream(reader(torch.zeros(1, 3)), 3, separator, window=40, context=5))
    with pytest.raises(LassError, match=r"context must be 0…39"):
        next(separate_stream(reader(torch.zeros(1, 90)), 90, separator, window=40, context=40))
    separator.refinement = LatentDescent()
    with pytest.raises(LassError, match="refines with LatentDescent"):
        next(separate_stream(reader(torch.zeros(1, 90)), 90, separator, window=40, context=5))
    separator.codec = ImageVQVAE(image_shape=(1, 8, 8), num_codes=NUM_CODES)
    with pytest.raises(LassError, match="the codec is a ImageVQVAE"):
        next(separate_stream(reader(torch.zeros(1, 90)), 90, separator, window=40, context=5))
