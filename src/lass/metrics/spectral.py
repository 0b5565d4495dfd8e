"""Multi-resolution spectral distance: a loss of audio codecs, and a score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

RESOLUTIONS = (256, 512, 1024, 2048)  # window lengths in samples; the hop is a quarter of the window
FLOOR = 1e-3  # smaller magnitudes, about 80 dB below a full-scale tone, are inaudible and clamped


def spectral_distance(
    estimate: Float[Tensor, "batch channels samples"],
    target: Float[Tensor, "batch channels samples"],
    resolutions: Sequence[int] = RESOLUTIONS,
) -> Float[Tensor, " batch"]:
    """Multi-resolution spectral distance: spectral convergence plus mean absolute difference of log magnitudes.

    Both terms are averaged over resolutions. Spectral convergence is the Frobenius norm of the difference of magnitude
    spectrograms divided by the norm of the target's spectrogram.

    Args:
        estimate: Audio signals, (batch, channels, samples).
        target: Audio signals, shaped like `estimate`.
        resolutions: Window lengths in samples.

    Returns:
        Distance of each item, (batch,); 0 for equal signals.

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
        pad_mode="constant",  # reflection would fail for signals shorter than the window
        return_complex=True,
    )
    # Clamped, because the gradient of a magnitude is undefined at 0.
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-12).sqrt()
