"""Statistics of the scores of mixtures: mean, 95 % interval of the mean, and paired difference of two methods."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
K = TypeVar("K", bound=Hashable)  # identifies a mixture


@dataclass(frozen=True)
class Estimate:
    """Mean of independent values.

    Args:
        mean: Mean.
        deviation: Standard deviation of the values, with n - 1; NaN for one value.
        half_width: Half of the width of the 95 % interval of the mean; NaN for one value.
        num: Number n of values.
    """

    mean: float
    deviation: float
    half_width: float
    num: int


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean of the finite values, with the interval of Student's t; None if no value is finite.

    Scores that are not finite are undefined, for example an SDR of a silent source.
    """
    given = np.asarray(list(values), dtype=np.float64)
    finite = given[np.isfinite(given)]
    num = len(finite)
    if not num:
        return None
    if num == 1:
        return Estimate(float(finite[0]), math.nan, math.nan, 1)
    deviation = float(finite.std(ddof=1))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, num - 1))
    return Estimate(float(finite.mean()), deviation, quantile * deviation / math.sqrt(num), num)


def paired_difference(scores: Mapping[K, float], reference: Mapping[K, float]) -> Estimate | None:
    """Mean of `scores` - `reference` over the keys that both have; None if there is none with finite scores.

    The difference of two methods on the same mixtures has a much smaller variance than the difference of means, because
    most of the variance of a score is that of the mixtures.
    """
    return estimate(scores[key] - reference[key] for key in scores if key in reference)
