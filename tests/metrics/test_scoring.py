"""Tests of scores in edge cases: silent or perfect estimates, silent sources, and the order of estimates."""

from __future__ import annotations

import math

import pytest
import torch

from lass.metrics import best_permutation, pairwise_scores, psnr
from lass.metrics.bss_eval import LIMIT_DB
from lass.metrics.scoring import AudioScoring, ImageScoring
from lass.metrics.sdr import median_sdr
from lass.report.summary import describe_summary

RATE = 2000


@pytest.fixture
def sources():
    torch.manual_seed(0)
    return 0.1 * torch.randn(1, 2, 1, 3 * RATE)


def test_a_silent_estimate_has_the_sdr_of_its_definition(sources):
    """A silent estimate has |s|² / |0 − s|² = 1, so 0 dB; the score of the other source is unchanged."""
    estimates = sources + 0.01 * torch.randn_like(sources)
    expected = median_sdr(estimates[:, :, 0], sources[:, :, 0], RATE)
    for silent in (0, 1):
        muted = estimates.clone()
        muted[:, silent] = 0
        scores = AudioScoring(RATE).score_separation(muted, sources)
        assert scores["sdr_db"][0, silent].item() == pytest.approx(0, abs=1e-3)
        assert scores["sdr_db"][0, 1 - silent].item() == pytest.approx(expected[0, 1 - silent].item(), abs=1e-3)
        assert scores["si_sdr_db"][0, silent] == -LIMIT_DB


def test_frames_in_which_an_estimate_is_silent_are_scored_too(sources):
    """With two of three frames silent, the median is 0 dB; museval would keep only the good frame."""
    estimates = sources + 0.01 * torch.randn_like(sources)
    estimates[:, 0, :, : 2 * RATE] = 0
    score = AudioScoring(RATE).score_separation(estimates, sources)["sdr_db"]
    assert score[0, 0].item() == pytest.approx(0, abs=1e-3)
    assert score[0, 1] > 15


def test_perfect_estimates_have_the_highest_score(sources):
    scores = AudioScoring(RATE).score_separation(sources, sources)
    assert all((values <= LIMIT_DB).all() and (values > 60).all() for values in scores.values())
    images = torch.rand(2, 2, 1, 8, 8)
    assert (ImageScoring().score_separation(images, images)["psnr_db"] == LIMIT_DB).all()


def test_only_mixtures_with_a_silent_source_have_no_score(sources):
    silent = sources.clone()
    silent[:, 1] = 0
    scores = AudioScoring(RATE).score_separation(sources, silent)
    assert all(values.isnan().all() for values in scores.values())


def test_mixtures_without_a_score_are_counted_in_words(tmp_path):
    def facts(num):
        return {"mean": 1.0, "std": 0.0, "num": num}

    summary = {
        f"{kind}{score}": facts(num)
        for score, num in (("sdr_db", 3), ("si_sdr_db", 4), ("si_sdri_db", 2))
        for kind in ("", "average_", "codec_")
    }
    summary |= {"si_sdri_flute_db": facts(2), "si_sdr_flute_db": facts(4)}
    text = describe_summary(tmp_path, summary, num_sources=3)
    assert "(SI-SDRi) in dB; without 2 mixtures in which fewer than two sources sound" in text
    assert text.count("estimates of flute") == 2
    assert "SDR (museval) in dB; without 1 mixture in which a source is silent" in text
    assert "SI-SDR in dB\n" in text
    assert "Separated 4 mixtures of 3 sources each." in text


def test_pairwise_scores_are_those_of_every_pair():
    torch.manual_seed(0)
    estimates, sources = torch.rand(2, 5, 3, 1, 4, 4)
    found = pairwise_scores(ImageScoring(), estimates, sources)
    for estimate in range(3):
        for source in range(3):
            expected = psnr(estimates[:, estimate], sources[:, source])
            torch.testing.assert_close(found[:, estimate, source], expected, atol=1e-4, rtol=0)


def test_the_order_of_audio_is_the_one_that_its_reported_score_prefers(sources):
    """Estimates are in order in two of three frames, but exchanged and loud in the last.

    The last frame dominates the squared error, but not the median over frames.
    """
    estimates = sources + 0.01 * torch.randn_like(sources)
    estimates[..., 2 * RATE :] = 10 * sources[..., 2 * RATE :].flip(1)
    by_error = torch.stack(
        [psnr(estimates[:, [e]].flatten(1), sources[:, [s]].flatten(1)) for e in (0, 1) for s in (0, 1)], 1
    ).view(1, 2, 2)
    assert best_permutation(by_error).tolist() == [[1, 0]]
    assert best_permutation(pairwise_scores(AudioScoring(RATE), estimates, sources)).tolist() == [[0, 1]]


@pytest.mark.parametrize("value", [math.nan, 0.0, -3.0])
def test_undefined_and_equal_scores_leave_the_order_as_it_is(value):
    for num_sources in (2, 3, 4):
        every = torch.cartesian_prod(*[torch.arange(num_sources)] * num_sources)
        for groups in (None, every):
            scores = torch.full((len(every), num_sources, num_sources), value)
            assert torch.equal(best_permutation(scores, groups), torch.arange(num_sources).expand(len(every), -1))
