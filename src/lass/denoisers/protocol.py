"""Protocol of denoisers, and the score of noisy sources that a denoiser gives."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    """A model of single sources: E[x | x + σ ε] for Gaussian noise ε, by the noise level σ. No base class is needed."""

    def denoise(self, noisy: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the expected clean sources.

        Args:
            noisy: Sources with noise, (batch, channels, *space).
            sigma: Standard deviation σ of the noise, (batch,), in the units of the sources.
            condition: Class of each source, (batch,) long; None for sources of any class.

        Returns:
            Shaped like `noisy`.
        """
        ...


def score(denoiser: Denoiser, noisy: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
    """Gradient of the log density of noisy sources, (E[x | noisy] - noisy) / σ².

    Args:
        denoiser, noisy, sigma, condition: See `Denoiser.denoise`.

    Returns:
        Shaped like `noisy`.

    Source: Tweedie's formula (Efron 2011, "Tweedie's formula and selection bias", Eq. 1.4).
    """
    variance = sigma.square().reshape(-1, *[1] * (noisy.ndim - 1))
    return (denoiser.denoise(noisy, sigma, condition) - noisy) / variance
