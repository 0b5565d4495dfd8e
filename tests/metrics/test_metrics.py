"""Tests of scores against their formulas and against torchmetrics."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from lass.metrics import CodeUsage, MeanAndDeviation, best_permutation, psnr


def test_psnr_matches_its_formula_and_torchmetrics():
    """Tolerance: the float32 mean of 192 squares is accurate to 1.2e-5 in any order; 5e-5 dB of at least 7 dB."""
    generator = torch.Generator().manual_seed(0)
    estimate, target = torch.rand(2, 4, 3, 8, 8, generator=generator)
    for data_range in (1.0, 2.0):
        ours = psnr(estimate, target, data_range)
        for i in range(4):
            error = ((estimate[i] - target[i]) ** 2).mean()
            assert ours[i].item() == pytest.approx(10 * torch.log10(data_range**2 / error).item(), rel=1e-5)
            theirs = peak_signal_noise_ratio(estimate[i], target[i], data_range=data_range)
            assert ours[i].item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("num_sources", [1, 2, 3, 4])
def test_best_permutation_matches_trying_all(num_sources, grouped, sign, device):
    """Scores are distinct powers of 2, so that sums are exact and the maximum is unique; some are NaN, for 0."""
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(num_sources**2, generator=generator) for _ in range(60)])
    scores = (sign * 2.0**order).view(60, num_sources, num_sources)
    scores[order.view_as(scores) == 1] = math.nan
    groups = torch.randint(2, (60, num_sources), generator=generator) if grouped else None
    found = best_permutation(scores.to(device), None if groups is None else groups.to(device)).cpu()
    for item, order, group in zip(
        scores.nan_to_num(0.0), found.tolist(), found * 0 if groups is None else groups, strict=True
    ):
        totals = {
            candidate: sum(item[e, s].item() for s, e in enumerate(candidate))
            for candidate in itertools.permutations(range(num_sources))
            if torch.equal(group[list(candidate)], group)
        }
        assert tuple(order) == max(totals, key=totals.get)


def test_best_permutation_of_no_items_has_no_items():
    assert best_permutation(torch.zeros(0, 3, 3)).shape == (0, 3)
    assert best_permutation(torch.zeros(0, 3, 3)).dtype == torch.long


def test_mean_and_deviation():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    metric = MeanAndDeviation()
    for part in values.split(7):
        metric.update(part)
    result = metric.compute()
    # Both are computed in float64, whose rounding errors are a millionth of the tolerance.
    assert result["mean"].item() == pytest.approx(values.double().mean().item(), abs=1e-9)
    assert result["std"].item() == pytest.approx(values.double().std().item(), abs=1e-9)
    assert result["num"] == 50
    metric.reset()
    metric.update(torch.tensor(3.0))
    assert metric.compute()["std"] == 0


def test_code_usage():
    usage = CodeUsage(8)
    usage.update(torch.arange(4).repeat(5))
    usage.update(torch.arange(4)[None])
    # float32: a few rounding errors of 6e-8, and those of exp and log, which differ between machines.
    assert usage.compute()["perplexity"].item() == pytest.approx(4.0, rel=1e-5)
    assert usage.compute()["used"].item() == 0.5
