"""Scores against their formulas and against torchmetrics."""

from __future__ import annotations

import itertools

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from lass.metrics import CodeUsage, MeanAndDeviation, best_permutation, psnr


def test_psnr_matches_its_formula_and_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    estimate, target = torch.rand(2, 4, 3, 8, 8, generator=generator)
    for data_range in (1.0, 2.0):
        ours = psnr(estimate, target, data_range)
        for i in range(4):
            error = ((estimate[i] - target[i]) ** 2).mean()
            assert ours[i].item() == pytest.approx(10 * torch.log10(data_range**2 / error).item(), rel=1e-5)
            theirs = peak_signal_noise_ratio(estimate[i], target[i], data_range=data_range)
            assert ours[i].item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("num_sources", [1, 2, 3, 4])
def test_best_permutation_matches_trying_all(num_sources):
    scores = torch.randn(20, num_sources, num_sources, generator=torch.Generator().manual_seed(0))
    found = best_permutation(scores)
    for item, order in zip(scores, found.tolist(), strict=True):
        totals = {
            candidate: sum(item[e, s].item() for s, e in enumerate(candidate))
            for candidate in itertools.permutations(range(num_sources))
        }
        assert tuple(order) == max(totals, key=totals.get)


def test_mean_and_deviation():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    metric = MeanAndDeviation()
    for part in values.split(7):
        metric.update(part)
    result = metric.compute()
    assert result["mean"].item() == pytest.approx(values.mean().item(), abs=1e-6)
    assert result["std"].item() == pytest.approx(values.std().item(), abs=1e-6)
    assert result["num"] == 50
    metric.reset()
    metric.update(torch.tensor(3.0))
    assert metric.compute()["std"] == 0


def test_code_usage():
    usage = CodeUsage(8)
    usage.update(torch.arange(4).repeat(5))
    usage.update(torch.arange(4)[None])
    assert usage.compute()["perplexity"].item() == pytest.approx(4.0)
    assert usage.compute()["used"].item() == 0.5
