"""Blind methods for audio: planted structure that each must recover, and literal references of their filters."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
import yaml
from safetensors.numpy import load_file

import lass.methods
from lass import LassError
from lass.methods import FT2D, HPSS, ICA, REPET, RPCA, IdealRatioMask
from lass.methods.ft2d import periodic_part
from lass.methods.ica import averaged, embedded
from lass.methods.rpca import robust_pca

pytest.importorskip("librosa")

RATE = 8000
MASKING = [HPSS, REPET, FT2D, RPCA]
METHODS = [*MASKING, ICA]
CLOSE = {"atol": 1e-5, "rtol": 0}
NUSSL = Path(__file__).parent.parent / "golden" / "nussl.safetensors"


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tone(frequency, seconds=2.0):
    return torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)


def clicks(every, seconds=2.0):
    signal = torch.zeros(round(seconds * RATE))
    signal[every // 2 :: every] = 4.0
    return signal


def si_sdr(estimate, source):
    """Scale-invariant SDR in dB, by its definition."""
    projection = (estimate @ source) / (source @ source) * source
    return 10 * torch.log10(projection.square().sum() / (estimate - projection).square().sum())


def separated(method, sources):
    """Estimates, (sources, samples), of the mean of the sources, (sources, samples)."""
    return method.separate_batch(sources.mean(0)[None, None]).estimates[0, :, 0]


# What all of them have in common


def test_masks_agree_with_those_of_nussl():
    """Values of nussl's RPCA, FT2D ("original" peaks) and RepetSim with given neighbours; see golden/nussl.py."""
    golden = load_file(NUSSL)
    low_rank, sparse = robust_pca(golden["rpca.magnitudes"])
    np.testing.assert_allclose(low_rank, golden["rpca.low_rank"], atol=1e-8)
    np.testing.assert_allclose(sparse, golden["rpca.sparse"], atol=1e-8)
    background = periodic_part(golden["ft2d.magnitudes"], (1, 7))
    np.testing.assert_allclose(background, golden["ft2d.background"], atol=1e-8)
    mask = REPET(num_neighbours=5, min_distance=4).background_share(golden["repet.magnitudes"])
    np.testing.assert_allclose(mask, golden["repet.mask"], atol=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize("shape", [(2, 1, 5001), (1, 2, 4096), (1, 1, 100)])
def test_estimates_have_the_mixtures_length_and_mix_into_it(method, shape):
    mixtures = noise(*shape)
    estimates = method().separate_batch(mixtures.double()).estimates
    assert estimates.shape == (shape[0], 2, *shape[1:])
    assert estimates.dtype == torch.float32
    torch.testing.assert_close(estimates.mean(1), mixtures, **CLOSE)
    weighted = method(mixing_weights=[0.25, 0.5]).separate_batch(mixtures).estimates
    torch.testing.assert_close(0.25 * weighted[:, 0] + 0.5 * weighted[:, 1], mixtures, **CLOSE)
    torch.testing.assert_close(weighted[:, 1], estimates[:, 1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_silence_gives_silence_and_a_mixture_does_not_depend_on_its_batch(method):
    mixtures = torch.stack([torch.zeros(1, 3000), noise(1, 3000, seed=1), noise(1, 3000, seed=2)])
    estimates = method().separate_batch(mixtures, seed=5, indices=[3, 4, 9]).estimates
    assert not estimates[0].any()
    alone = method().separate_batch(mixtures[2:], seed=5, indices=[9]).estimates
    torch.testing.assert_close(alone, estimates[2:], **CLOSE)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_sources_are_not_exchangeable(method):
    assert method().exchangeable(None, 3).tolist() == [[0, 1]] * 3
    assert method().num_sources == 2


@pytest.mark.parametrize("method", MASKING, ids=lambda method: method.__name__)
def test_order_says_which_component_is_which_source(method):
    mixtures, components = noise(1, 1, 4000), method.components
    first = method().separate_batch(mixtures).estimates
    second = method(order=list(components[::-1])).separate_batch(mixtures).estimates
    torch.testing.assert_close(second, first.flip(1), **CLOSE)
    for order in (["drums", "bass"], components[0], [1, components[0]]):
        with pytest.raises(
            LassError, match=f"order of {method.__name__} must name {components[0]} and {components[1]}"
        ):
            method(order=order)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *[(method, {"window": 1022}) for method in MASKING],
        *[(method, {"window": 4}) for method in MASKING],
        *[(method, {"mixing_weights": [1.0]}) for method in METHODS],
        (HPSS, {"harmonic_kernel": 0}),
        (HPSS, {"exponent": 0.0}),
        (REPET, {"num_neighbours": 0}),
        (REPET, {"min_distance": 0}),
        (FT2D, {"rates": 0}),
        (RPCA, {"sparsity": 0.0}),
        (RPCA, {"tolerance": 1.0}),
        (ICA, {"num_delays": 0}),
        (ICA, {"max_iterations": 0}),
        (IdealRatioMask, {"num_sources": 1}),
        (IdealRatioMask, {"window": 1022}),
    ],
)
def test_bad_settings_are_named(method, options):
    with pytest.raises(LassError, match=next(iter(options)).replace("mixing_weights", "weights")):
        method(**options)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize(
    ("mixtures", "words"),
    [
        (torch.zeros(1, 100), r"shape \(mixtures, channels, samples\).*\(1, 100\)"),
        (torch.zeros(1, 1, 0), r"none of them 0"),
        (torch.zeros(1, 1, 100, dtype=torch.long), "int64"),
        (torch.full((1, 1, 100), math.nan), "NaN"),
    ],
)
def test_bad_mixtures_are_refused(method, mixtures, words):
    with pytest.raises(LassError, match=words):
        method().separate_batch(mixtures)


@pytest.mark.parametrize("name", ["hpss", "repet", "ft2d", "rpca", "ica"])
def test_methods_of_the_experiment_give_drums_and_bass(repository, name):
    """Each YAML file names a class and valid settings; hits that decay are the drums, a low tone the bass."""
    model = yaml.safe_load((repository / f"experiments/slakh/methods/{name}.yaml").read_text())["model"]["init_args"]
    assert model["source_names"] == ["drums", "bass"]
    method = getattr(lass.methods, model["method"]["class_path"].removeprefix("lass.methods."))
    hits = noise(2 * RATE) * (torch.arange(RATE // 4) / 100).neg().exp().repeat(8) * 2
    sources = torch.stack([hits, tone(110)])
    estimates = separated(method(**model["method"]["init_args"]), sources)
    in_order, swapped = (
        sum(si_sdr(estimate, source) for estimate, source in zip(estimates, each, strict=True))
        for each in (sources, sources.flip(0))
    )
    assert in_order > swapped + 3


# HPSS


def test_hpss_separates_clicks_from_a_tone():
    sources = torch.stack([clicks(2000), tone(440)])
    estimates = separated(HPSS(window=512), sources)
    assert min(si_sdr(estimates[s, 500:-500], sources[s, 500:-500]) for s in (0, 1)) > 12


def test_hpss_masks_are_those_of_two_median_filters():
    magnitudes = np.abs(np.random.default_rng(0).normal(size=(40, 50))).astype(np.float32)
    mask = HPSS(harmonic_kernel=7, percussive_kernel=5, exponent=2.0).first_mask(magnitudes)
    along_time = scipy.ndimage.median_filter(magnitudes, size=(1, 7), mode="reflect")
    along_frequency = scipy.ndimage.median_filter(magnitudes, size=(5, 1), mode="reflect")
    np.testing.assert_allclose(mask, along_frequency**2 / (along_frequency**2 + along_time**2), atol=1e-5)


# REPET


def test_repet_recovers_a_repeating_background_from_a_foreground_that_occurs_once():
    bar = noise(RATE // 4)  # repeated eight times, a quarter of a second each
    foreground = torch.zeros(2 * RATE)
    foreground[3000:5000] = tone(700)[:2000]
    sources = torch.stack([foreground, bar.repeat(8)])
    # The tone lasts 20 frames: its own frames are too near to be neighbours.
    estimates = separated(REPET(window=400, num_neighbours=3, min_distance=25), sources)
    scores = [si_sdr(estimates[s, 400:-400], sources[s, 400:-400]) for s in (0, 1)]
    assert min(scores) > 10


def test_repet_models_a_frame_by_the_median_of_its_most_similar_distant_frames():
    magnitudes = np.abs(np.random.default_rng(1).normal(size=(12, 30))).astype(np.float32)
    share = REPET(num_neighbours=3, min_distance=4).background_share(magnitudes)
    unit = magnitudes / np.linalg.norm(magnitudes, axis=0)
    similarity = unit.T @ unit
    for frame in range(30):
        distant = [other for other in range(30) if abs(other - frame) >= 4]
        nearest = sorted(distant, key=lambda other: -similarity[frame, other])[:3]
        model = np.median(magnitudes[:, nearest], axis=1)
        np.testing.assert_allclose(share[:, frame], np.minimum(1, model / magnitudes[:, frame]), atol=1e-5)


# FT2D


def test_ft2d_recovers_a_periodic_background():
    background = noise(RATE // 4).repeat(8)
    foreground = torch.zeros(2 * RATE)
    foreground[3000:5000] = 4 * tone(700)[:2000]
    sources = torch.stack([foreground, background])
    estimates = separated(FT2D(window=400, rates=7), sources)
    scores = torch.stack([si_sdr(estimates[s, 400:-400], sources[s, 400:-400]) for s in (0, 1)])
    as_mixture = torch.stack([si_sdr(sources.mean(0)[400:-400], source[400:-400]) for source in sources])
    assert (scores > as_mixture + 3).all()


def test_a_periodic_impulse_is_all_peaks_and_a_single_one_has_none():
    periodic = np.zeros((16, 64))
    periodic[3, 2::8] = 1.0  # its transform has one magnitude at every eighth rate, and is 0 elsewhere
    np.testing.assert_allclose(periodic_part(periodic, (1, 5)), periodic, atol=1e-9)
    single = np.zeros((16, 64))
    single[3, 10] = 1.0  # its transform has the same magnitude everywhere
    np.testing.assert_allclose(periodic_part(single, (1, 5)), 0, atol=1e-9)


def test_peaks_are_the_largest_of_their_neighbourhood_in_every_rotation():
    """A literal loop over the bins of the transform, whose indices wrap around."""
    magnitudes = np.abs(np.random.default_rng(3).normal(size=(9, 14)))
    transform = np.fft.fft2(magnitudes)
    size, kept = np.abs(transform), np.zeros_like(transform)
    for row in range(9):
        for column in range(14):
            around = [size[(row + i) % 9, (column + j) % 14] for i in (-1, 0, 1) for j in (-2, -1, 0, 1, 2)]
            if size[row, column] >= max(around) - 1e-9 and max(around) - min(around) > size.std():
                kept[row, column] = transform[row, column]
    np.testing.assert_allclose(periodic_part(magnitudes, (3, 5)), np.fft.ifft2(kept).real, atol=1e-9)


# RPCA


def test_robust_pca_recovers_a_low_rank_and_a_sparse_matrix():
    """Candès et al., Theorem 1.1: both are recovered exactly if the rank is low and the support random."""
    random = np.random.default_rng(4)
    low_rank = random.normal(size=(80, 3)) @ random.normal(size=(3, 60))
    sparse = np.where(random.random((80, 60)) < 0.05, 10 * random.normal(size=(80, 60)), 0)
    found = robust_pca(low_rank + sparse)
    np.testing.assert_allclose(found[0], low_rank, atol=1e-4)
    np.testing.assert_allclose(found[1], sparse, atol=1e-4)


def test_rpca_finds_a_steady_chord_behind_short_chirps():
    time = torch.arange(2 * RATE) / RATE
    chirp = torch.sin(2 * math.pi * (600 * time + 500 * time**2))  # a new frequency in every frame: high rank
    sources = torch.stack([chirp, tone(220) + tone(350)])
    estimates = separated(RPCA(window=512), sources)
    assert min(si_sdr(estimates[s, 512:-512], sources[s, 512:-512]) for s in (0, 1)) > 10
    binary = separated(RPCA(window=512, binary=True), sources)
    assert min(si_sdr(binary[s, 512:-512], sources[s, 512:-512]) for s in (0, 1)) > 10


# ICA


def test_ica_recovers_two_independent_signals_from_two_channels():
    uniform = 2 * torch.rand(20000, generator=torch.Generator().manual_seed(0)) - 1  # kurtosis 1.8
    sharp = noise(20000, seed=1) ** 3  # kurtosis far above 3
    images = torch.stack([sharp * torch.tensor([[0.9], [0.3]]), uniform * torch.tensor([[0.5], [-0.8]])])
    mixture = images.mean(0)
    estimates = ICA(num_delays=1).separate_batch(mixture[None]).estimates[0]  # (sources, channels, samples)
    for source in (0, 1):
        for channel in (0, 1):
            assert si_sdr(estimates[source, channel], images[source, channel]) > 20
    error = (estimates - images).square().mean((1, 2)) / images.square().mean((1, 2))
    assert (error < 0.02).all()  # the scale is that of the sources


def test_ica_separates_one_channel_by_its_delays_and_needs_some():
    sharp = noise(20000, seed=2) ** 3
    high = sharp - torch.roll(sharp, 1)  # a high-pass filter leaves it sparse
    low = 8 * tone(100, 2.5)
    sources = torch.stack([high, low])
    estimates = separated(ICA(num_delays=8), sources)
    assert min(si_sdr(estimates[s], sources[s]) for s in (0, 1)) > 10
    with pytest.raises(LassError, match="set num_delays to 2"):
        ICA(num_delays=1).separate_batch(sources[:1, None])


def test_observations_are_averaged_back_into_the_signal():
    signal = noise(3, 50).double().numpy()
    observations = embedded(signal, 4)
    assert observations.shape == (53, 12)
    np.testing.assert_allclose(observations[10, 4:8], signal[1, 7:11])  # channel 1, samples 7 to 10
    np.testing.assert_allclose(averaged(observations, 3), signal)


# Oracle


def test_the_ideal_ratio_mask_nearly_recovers_sources_that_do_not_overlap():
    sources = torch.stack([tone(440), tone(1200)])[None, :, None]
    estimates = IdealRatioMask(window=512).separate_batch(sources.mean(1), sources=sources).estimates
    assert min(si_sdr(estimates[0, s, 0], sources[0, s, 0]) for s in (0, 1)) > 25
    torch.testing.assert_close(estimates.mean(1), sources.mean(1), atol=1e-4, rtol=0)


def test_the_ideal_ratio_mask_needs_the_sources_of_the_mixtures():
    with pytest.raises(LassError, match=r"needs the true sources of shape \(1, 2, 1, 100\), got none"):
        IdealRatioMask().separate_batch(torch.zeros(1, 1, 100))
    with pytest.raises(LassError, match=r"got \(1, 3, 1, 100\)"):
        IdealRatioMask().separate_batch(torch.zeros(1, 1, 100), sources=torch.zeros(1, 3, 1, 100))
    assert IdealRatioMask.needs_sources
