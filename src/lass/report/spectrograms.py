"""Spectrogram images of audio."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib import colormaps
from torch import Tensor

WINDOW = 1024  # samples
RANGE_DB = 80.0  # dynamic range of the colours
HEIGHT, MAX_COLUMNS = 128, 256  # height and maximal width of an image in pixels


def spectrograms(
    signals: Float[Tensor, "batch 1 samples"], range_db: float = RANGE_DB
) -> Float[Tensor, "batch 3 height width"]:
    """Compute RGB images of the log-magnitude spectrograms of audio, with low frequencies at the bottom.

    The brightest colour is 0 dB relative to full scale.

    Args:
        signals: Mono audio in [-1, 1].
        range_db: Dynamic range in dB; magnitudes more than `range_db` below full scale are black.
    """
    return torch.cat([_spectrogram(signal, range_db) for signal in signals.split(1)])


def _spectrogram(signal: Float[Tensor, "1 1 samples"], range_db: float) -> Float[Tensor, "1 3 height width"]:
    window = torch.hann_window(WINDOW, dtype=signal.dtype, device=signal.device)
    magnitudes = torch.stft(
        signal[:, 0], WINDOW, WINDOW // 4, window=window * 2 / window.sum(), pad_mode="constant", return_complex=True
    ).abs()
    level = 1 + 20 * magnitudes.clamp(min=1e-10).log10() / range_db
    level = F.adaptive_avg_pool2d(level.flip(1)[:, None], (HEIGHT, min(MAX_COLUMNS, level.shape[-1])))[:, 0]
    colours = colormaps["magma"](level.clamp(0, 1).cpu().numpy())[..., :3]
    return torch.from_numpy(colours).float().movedim(-1, 1)
