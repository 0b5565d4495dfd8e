"""Independent component analysis (ICA) of a mixture's channels and delays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lass.errors import LassError, check_number
from lass.methods.signals import checked_mixtures, fixed_order, weights_or_mean
from lass.optional import optional_package
from lass.separation.result import SeparationResult

NEGLIGIBLE = 1e-6  # singular values of the observations below this share of the largest one are noise of rounding


@dataclass
class ICA:
    """Separate a mixture into statistically independent, non-Gaussian components, and these into two sources.

    The observations at a time are the samples of all channels at `num_delays` successive times. With one delay, this is
    the ICA of C ≥ 2 channels. A single channel is separated by its delays: the components are then filters of the
    mixture, learned from it, and sources can be separated so far as their spectra differ.

    Every component is projected back onto the observations and averaged over the delays, so that components have a
    scale and their sum is the mixture. Components are divided into two groups by their kurtosis, at the threshold
    with the least variance within the groups: those with the higher one (sparse in time, as drums are) are the first
    source, the others the second.

    Args:
        num_delays: Number of successive samples in an observation.
        max_iterations: Largest number of iterations of FastICA.
        mixing_weights: Weight of each source in the mixtures; null for their mean, 1/2 each.

    Source: Hyvärinen and Oja 2000, "Independent component analysis: algorithms and applications", section 6, by
    scikit-learn's `FastICA`; for one channel, Davies and James 2007, "Source separation using single channel ICA". The
    grouping by kurtosis is our choice.
    """

    num_sources: ClassVar[int] = 2

    num_delays: int = 16
    max_iterations: int = 200
    mixing_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_number("num_delays of ICA", self.num_delays, at_least=1, at_most=1024, whole=True)
        check_number("max_iterations of ICA", self.max_iterations, at_least=1, whole=True)
        weights_or_mean(self.mixing_weights, self.num_sources)

    @torch.no_grad()
    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> SeparationResult:
        """Separate a batch of mixtures.

        Args:
            mixtures: (M, channels, samples), with two or more channels or delays.
            conditions: Not used.
            seed, indices: FastICA's initial matrix for each mixture is drawn from (`seed`, its index).

        Returns:
            Result with estimates (M, 2, channels, samples), float32, on the device of the mixtures.

        Raises:
            LassError: if the mixtures are not finite floating-point audio, or have one channel and `num_delays` is 1.
        """
        signals = checked_mixtures(mixtures, 3, "(mixtures, channels, samples)")
        if signals.shape[1] * self.num_delays < 2:
            raise LassError("ICA needs two observations of a mixture, got one channel: set num_delays to 2 or more.")
        weights = np.array(weights_or_mean(self.mixing_weights, self.num_sources))[:, None, None]
        numbers = range(len(signals)) if indices is None else indices
        parts = [
            self._parts(signal, np.random.SeedSequence((seed, index))) / weights
            for signal, index in zip(signals.double().cpu().numpy(), numbers, strict=True)
        ]
        return SeparationResult(torch.from_numpy(np.stack(parts)).float().to(mixtures.device))

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Groups of exchangeable sources, (num_mixtures, 2); each its own, as kurtosis orders the estimates."""
        return fixed_order(num_mixtures, self.num_sources)

    def _parts(
        self, signal: Float[np.ndarray, "channels samples"], seed: np.random.SeedSequence
    ) -> Float[np.ndarray, "2 channels samples"]:
        """The two parts of a mixture, with the sum `signal`."""
        observations = embedded(signal, self.num_delays)
        means = observations.mean(0)
        centred = observations - means
        # Components in the principal subspace only: FastICA divides by the singular values.
        _, values, axes = np.linalg.svd(np.linalg.qr(centred, mode="r"))
        axes = axes[: np.count_nonzero(values > NEGLIGIBLE * values[0])]
        if len(axes) < 2:  # silence, or one tone of constant phase: nothing to separate
            return np.stack([signal, signal]) / 2
        decomposition = optional_package("sklearn.decomposition", "scikit-learn", "train")
        ica = decomposition.FastICA(
            whiten="unit-variance",
            max_iter=self.max_iterations,
            random_state=np.random.RandomState(np.random.MT19937(seed)),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a component that has not converged is still one
            components = ica.fit_transform(centred @ axes.T)  # (observations, components)
        mixing = axes.T @ ica.mixing_
        kurtosis = (components**4).mean(0) / (components**2).mean(0) ** 2
        sharp = upper_group(np.log(kurtosis))
        sharp_part = averaged(components[:, sharp] @ mixing[:, sharp].T, len(signal))
        return np.stack([sharp_part, signal - sharp_part])


def embedded(signal: Float[np.ndarray, "channels samples"], num_delays: int) -> Float[np.ndarray, "times observations"]:
    """Observations of a signal: row t holds the samples t - num_delays + 1 … t of all channels; 0 outside the signal.

    Returns:
        (samples + num_delays - 1, channels · num_delays).
    """
    padded = np.pad(signal, ((0, 0), (num_delays - 1, num_delays - 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, num_delays, axis=1)  # (channels, times, delays)
    return np.moveaxis(windows, 0, 1).reshape(windows.shape[1], -1)


def averaged(
    observations: Float[np.ndarray, "times observations"], num_channels: int
) -> Float[np.ndarray, "channels samples"]:
    """Signal whose samples are the means of their `num_delays` copies in the observations; inverts `embedded`."""
    windows = observations.reshape(len(observations), num_channels, -1)
    num_delays = windows.shape[2]
    num_samples = len(observations) - num_delays + 1
    # Column d of row t is sample t - num_delays + 1 + d.
    copies = [windows[num_delays - 1 - d : num_delays - 1 - d + num_samples, :, d] for d in range(num_delays)]
    return np.mean(copies, axis=0).T


def upper_group(values: Float[np.ndarray, "numbers"]) -> Bool[np.ndarray, "numbers"]:
    """Divide two or more numbers into two groups with the least sum of squares within, and return the upper one.

    Example:
        >>> upper_group(np.array([3.0, 0.0, 0.5, 2.5]))
        array([ True, False, False,  True])
    """
    order = np.argsort(values)
    ascending = values[order]
    within = [
        part[:k].var() * k + part[k:].var() * (len(part) - k) for part in [ascending] for k in range(1, len(part))
    ]
    chosen = np.zeros(len(values), dtype=bool)
    chosen[order[1 + int(np.argmin(within)) :]] = True
    return chosen
