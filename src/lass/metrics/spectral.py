"""Distance of spectrograms at several resolutions: a loss for audio codecs, and a score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

RESOLUTIONS = (256, 512, 1024, 2048)  # samples in a window; the hop is a quarter of it
FLOOR = 1e-3  # magnitudes below, about 80 dB less than those of a full-scale tone, are noise to the ear


def spectral_distance(
    estimate: Float[Tensor, "batch channels samples"],
    target: Float[Tensor, "batch channels samples"],
    resolutions: Sequence[int] = RESOLUTIONS,
) -> Float[Tensor, " batch"]:
    """Mean over resolutions of spectral convergence plus the mean absolute difference of log magnitudes.

    Spectral convergence is the norm of the difference of magnitudes relative to that of the target's.

    Args:
        estimate: audio.
        target: audio of the same shape.
        resolutions: window lengths in samples.

    Source: Yamamoto, Song and Kim 2020 (arXiv:1910.11480), Eq. 3 to 6.
    """
    distances = []
    for window_length in resolutions:
        first, second = (_magnitudes(x.flatten(0, 1), window_length) for x in (estimate, target))
        first, second = (x.unflatten(0, target.shape[:2]) for x in (first, second))
        difference = (first - second).flatten(1).norm(dim=1)
        convergence = difference / second.flatten(1).norm(dim=1).clamp(min=FLOOR)
        log_difference = (first.clamp(min=FLOOR).log() - second.clamp(min=FLOOR).log()).abs().flatten(1).mean(1)
        distances.append(convergence + log_difference)
    return torch.stack(distances).mean(0)


def _magnitudes(signals: Float[Tensor, "batch samples"], window_length: int) -> Tensor:
    window = torch.hann_window(window_length, dtype=signals.dtype, device=signals.device)
    spectrum = torch.stft(
        signals,
        window_length,
        window_length // 4,
        window=window / window.norm(),
        pad_mode="constant",  # for signals that are shorter than the window
        return_complex=True,
    )
    # The gradient of a magnitude of exactly 0 is undefined.
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-12).sqrt()
