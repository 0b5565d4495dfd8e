"""Audio files: read by seeking, at any rate."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from scipy.signal import firwin, resample_poly
from torch import Tensor

from lass.errors import LassError

ZERO_CROSSINGS = 16  # to each side, of the windowed sinc that resamples
KAISER_BETA = 8.0  # of its window: what would be folded down is weaker by 80 dB


class AudioInfo(NamedTuple):
    """What a file says about itself."""

    sample_rate: int  # in Hz
    num_samples: int  # per channel
    num_channels: int
    format: str  # of the file, e.g. FLAC
    subtype: str  # of its samples, e.g. PCM_16


def audio_info(path: str | Path) -> AudioInfo:
    """Rate, length and channels of a file, without reading its samples.

    Raises:
        LassError: if it is missing or no audio that libsndfile knows.
    """
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError) as error:  # TypeError: for *.raw
        if not Path(path).is_file():
            raise LassError(f"There is no audio file at {path}.") from error
        raise LassError(f"{path} is no audio file that can be read (wav, flac, mp3, ogg …): {error}.") from error
    return AudioInfo(info.samplerate, info.frames, info.channels, info.format, info.subtype)


def resampled_length(num_samples: int, rate: int, new_rate: int) -> int:
    """How many samples a signal has after `resample`: as long in seconds, rounded up."""
    return -(-num_samples * new_rate // rate)


def read_segment(
    path: str | Path, start: int, length: int, sample_rate: int
) -> Float[Tensor, "channels segment_samples"]:
    """Part of a file at another rate: exactly that part of the whole file resampled, with only that part read.

    Args:
        path: of the file.
        start: first sample, counted at `sample_rate`.
        length: number of samples at `sample_rate`; what lies behind the end of the file is silence.
        sample_rate: wanted, in Hz.

    Raises:
        LassError: as `audio_info`, or if the file is damaged.
    """
    info = audio_info(path)
    common = math.gcd(info.sample_rate, sample_rate)
    native, wanted = info.sample_rate // common, sample_rate // common
    # So many samples of the file to each side of one have a part in it.
    margin = 0 if native == wanted else math.ceil(ZERO_CROSSINGS * max(native, wanted) / wanted) + 1
    # At multiples of `native` samples of the file, and there only, a sample of the result lies exactly on one.
    first_block = max(0, start // wanted - math.ceil(margin / native))
    stop = min(info.num_samples, -(-(start + length) * native // wanted) + margin)
    samples = _read(path, first_block * native, max(0, stop - first_block * native), info)
    samples = _resample(samples, native, wanted)[:, start - first_block * wanted :][:, :length]
    return torch.nn.functional.pad(torch.from_numpy(samples.copy()), (0, length - samples.shape[1]))


def _resample(samples: np.ndarray, native: int, wanted: int) -> np.ndarray:
    """(channels, samples) at `wanted` / `native` of their rate, rounded up in length; the first sample stays first."""
    if native == wanted or not samples.size:
        return samples
    return resample_poly(samples, wanted, native, axis=1, window=_low_pass(max(native, wanted)))


@lru_cache(maxsize=8)
def _low_pass(factor: int) -> np.ndarray:
    """Filter that passes what is below 1 / `factor` of the highest frequency."""
    return firwin(2 * ZERO_CROSSINGS * factor + 1, 1 / factor, window=("kaiser", KAISER_BETA)).astype(np.float32)


def _read(path: str | Path, start: int, length: int, info: AudioInfo) -> np.ndarray:
    if length == 0:
        return np.zeros((info.num_channels, 0), np.float32)
    try:
        with soundfile.SoundFile(str(path)) as file:
            file.seek(start)
            samples = file.read(length, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise LassError(f"{path} is damaged: {error}.") from error
    if len(samples) < length and info.format != "MP3":  # an MP3 does not say exactly how long it is
        raise LassError(f"{path} is damaged: it ends after {start + len(samples)} samples instead of {start + length}.")
    return np.pad(samples.T, ((0, 0), (0, length - len(samples))))


def rms_db(samples: np.ndarray | Tensor) -> float:
    """Root mean square in dB of full scale (a square wave from -1 to 1 has 0 dB); -inf for silence."""
    mean_square = float(torch.as_tensor(samples).double().square().mean()) if len(samples) else 0.0
    return 10 * math.log10(mean_square) if mean_square else -math.inf
