"""Random access to segments of audio files, resampled to any rate."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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

ZERO_CROSSINGS = 16  # of the windowed-sinc resampling filter, on each side
KAISER_BETA = 8.0  # of its Kaiser window: aliasing is attenuated by 80 dB
LOWEST_RATE, HIGHEST_RATE = 1_000, 384_000  # Hz; bounds the length of the filter, which grows with the rate
MAX_CHANNELS = 64
BLOCK_VALUES = 2**20  # samples × channels decoded at once

# Stateful decoders return wrong samples for a while after a seek, so decoding starts this far before a segment.
# MP3: a frame has at least 576 samples and may refer to the 255 bytes before it; at 8 kbit/s a stereo frame holds at
# most 3 of these bytes. Opus: the state of its predictor decays within a few seconds. Vorbis: after a seek into the
# last page, libsndfile returns misplaced samples, for up to 255 packets of 1,024 samples (libvorbis).
PREROLL = {"MP3": 2**18, "OGG": 2**18}  # samples
MAX_BYTES_OF_PAGE = 65_307

# Above this ratio, the file is digital silence or the length in its header is unknown or wrong.
MAX_SAMPLES_PER_BYTE = 64
# Programs that write WAV to a pipe set the length to 0 or to about 2 or 4 GB.
MIN_UNKNOWN_LENGTH = 2**31 - 2**16  # bytes
# libsndfile's log line for a file that is shorter than its header claims. A difference of less than MIN_CUT_OFF bytes
# is an error in the header, not a truncated file.
CUT_OFF = re.compile(r"^\s*(?:riff(?: size)?|form|data(?: size)?|ssnd)\s*:\s*(\d+) \(should be (\d+)\)", re.I | re.M)
MIN_CUT_OFF = 256  # bytes


class AudioInfo(NamedTuple):
    """Properties of an audio file."""

    sample_rate: int  # in Hz
    num_samples: int  # per channel; counted by decoding if the header is unreliable
    num_channels: int
    format: str  # container format, e.g. FLAC
    subtype: str  # sample encoding, e.g. PCM_16


def audio_info(path: str | Path) -> AudioInfo:
    """Read sample rate, length, channels and format of an audio file.

    Files whose header lacks the exact length (MP3, Ogg, FLAC from a pipe) are decoded once to count their samples. A
    file that is shorter than its header claims is read to its end, with a warning.

    Raises:
        LassError: if the file is missing, is not audio in a format of libsndfile, or claims a sample rate or number of
            channels outside the supported range.
    """
    if not Path(path).is_file():
        raise LassError(f"There is no audio file at {path}.")
    facts = Path(path).stat()
    return _audio_info(str(path), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=2**14)
def _audio_info(path: str, num_bytes: int, changed_ns: int) -> AudioInfo:
    """Cached `audio_info`; size and modification time are part of the key, so changed files are read again."""
    with _opened(path) as file:
        info = AudioInfo(file.samplerate, file.frames, file.channels, file.format, file.subtype)
        if not LOWEST_RATE <= info.sample_rate <= HIGHEST_RATE:
            raise LassError(
                f"{path} claims {info.sample_rate} samples per second: expected {LOWEST_RATE}…{HIGHEST_RATE}."
            )
        if info.num_channels > MAX_CHANNELS:
            raise LassError(f"{path} claims {info.num_channels} channels: expected at most {MAX_CHANNELS}.")
        remarks = file.extra_info
        if info.format in PREROLL or info.num_samples > MAX_SAMPLES_PER_BYTE * num_bytes:
            info = info._replace(num_samples=sum(len(block) for block in _blocks(file)))
        claimed = file.frames
    reason = None
    if info.format == "OGG":
        if info.num_samples < claimed:
            raise LassError(f"{path} is damaged: {claimed - info.num_samples} of its {claimed} samples are missing.")
        reason = _flaw_of_ogg(path)
    elif info.num_samples < claimed < 2**62 and (info.format != "MP3" or _counts_frames(path)):
        reason = f"it ends after {info.num_samples} of {claimed} samples"
    elif any(int(actual) + MIN_CUT_OFF <= int(said) < MIN_UNKNOWN_LENGTH for said, actual in CUT_OFF.findall(remarks)):
        reason = f"it ends after {info.num_samples} samples, earlier than its header states"
    if reason:
        warnings.warn(f"{path} is not whole: {reason}; only the samples that are there are read.", stacklevel=3)
    return info


def _counts_frames(path: str) -> bool:
    """Whether the first frame of an MP3 file holds the number of frames; otherwise its length is an estimate."""
    with open(path, "rb") as file:
        tag = file.read(10)
        if tag[:3] == b"ID3":  # skip the ID3 tag (title, pictures …); its size is 4 bytes of 7 bits
            file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False)))
        else:
            file.seek(0)
        frame = file.read(2048)
    return b"Xing" in frame or b"Info" in frame


def _flaw_of_ogg(path: str) -> str | None:
    """Reason why an Ogg file is incomplete (last page missing, several streams), or None."""
    with open(path, "rb") as file:
        first = file.read(27)
        file.seek(max(0, file.seek(0, io.SEEK_END) - 2 * MAX_BYTES_OF_PAGE))
        page = file.read()
    page = page[max(0, page.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "its last page is missing"
    if page[14:18] != first[14:18]:
        return "only the first of several streams can be read"
    return None


def resampled_length(num_samples: int, rate: int, new_rate: int) -> int:
    """Number of samples after resampling from `rate` to `new_rate`: num_samples · new_rate / rate, rounded up."""
    return -(-num_samples * new_rate // rate)


def read_segment(
    path: str | Path, start: int, length: int, sample_rate: int
) -> Float[Tensor, "channels segment_samples"]:
    """Read a segment of an audio file, resampled to `sample_rate`.

    The result equals the segment of the resampled whole file, but only the segment and the filter's margin are read.

    Args:
        path: Path of the file.
        start: First sample of the segment, at `sample_rate`.
        length: Number of samples of the segment, at `sample_rate`; zeros follow the end of the file.
        sample_rate: Sample rate of the result, in Hz.

    Raises:
        LassError: as `audio_info`, or if the file is damaged or the segment holds NaN or infinite values.
    """
    info = audio_info(path)
    common = math.gcd(info.sample_rate, sample_rate)
    native, wanted = info.sample_rate // common, sample_rate // common
    # Reach of the resampling filter on each side, in samples of the file.
    margin = 0 if native == wanted else math.ceil(ZERO_CROSSINGS * max(native, wanted) / wanted) + 1
    # The sampling grids of file and result coincide exactly at multiples of `native` samples of the file.
    first_block = max(0, start // wanted - math.ceil(margin / native))
    stop = min(info.num_samples, -(-(start + length) * native // wanted) + margin)
    samples = _read(path, first_block * native, max(0, stop - first_block * native), info)
    samples = _resample(samples, native, wanted)[:, start - first_block * wanted :][:, :length]
    return torch.nn.functional.pad(torch.from_numpy(samples.copy()), (0, length - samples.shape[1]))


def check_whole(path: str | Path) -> None:
    """Check that a whole file can be decoded to finite samples; it is decoded in blocks.

    Raises:
        LassError: as `audio_info`, or if the file is damaged or holds NaN or infinite values.
    """
    info, done = audio_info(path), 0
    with _opened(path) as file:
        for block in _blocks(file):
            _check_finite(path, block, done, info)
            done += len(block)
    _check_length(path, done, info.num_samples)


def _resample(samples: np.ndarray, native: int, wanted: int) -> np.ndarray:
    """Resample (channels, samples) by `wanted` / `native`; the length is rounded up, the first sample stays aligned."""
    if native == wanted or not samples.size:
        return samples
    return resample_poly(samples, wanted, native, axis=1, window=_low_pass(max(native, wanted)))


@lru_cache(maxsize=8)
def _low_pass(factor: int) -> np.ndarray:
    """Low-pass FIR filter with cut-off at 1 / `factor` of the Nyquist frequency."""
    return firwin(2 * ZERO_CROSSINGS * factor + 1, 1 / factor, window=("kaiser", KAISER_BETA)).astype(np.float32)


class _InOrder(soundfile.SoundFile):
    """Sound file for sequential reads, without the redundant seek of `SoundFile` after each read.

    That seek, to the current position, resets stateful decoders and fails at the end of a file of unknown length.
    """

    def seekable(self) -> bool:
        """False, so that `SoundFile` does not seek after each read."""
        return False


class _Patched(io.FileIO):
    """Read-only view of a file in which some bytes are replaced; `patches` maps positions to bytes."""

    def __init__(self, path: str, patches: dict[int, bytes]) -> None:
        super().__init__(path)
        self.patches = patches

    def readinto(self, buffer) -> int:
        """Read into the buffer from the current position, with the patches applied."""
        start, view = self.tell(), memoryview(buffer).cast("B")
        num_bytes = super().readinto(view)
        for position, patch in self.patches.items():
            for i, byte in enumerate(patch, position - start):
                if 0 <= i < num_bytes:
                    view[i] = byte
        return num_bytes


@contextmanager
def _opened(path: str | Path) -> Iterator[_InOrder]:
    """Context manager that opens a file for sequential reads and turns libsndfile's errors into LassErrors."""
    path, opened = str(path), False
    try:
        with ExitStack() as stack:
            patches = _missing_sizes(path)
            file = stack.enter_context(_Patched(path, patches)) if patches else path
            file = stack.enter_context(_InOrder(file))
            opened = True
            yield file
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError) as error:  # TypeError: raised for *.raw
        if not opened:
            raise LassError(f"{path} is no audio file that can be read (wav, flac, mp3, ogg …): {error}.") from error
        raise LassError(f"{path} is damaged: {error}.") from error


def _missing_sizes(path: str) -> dict[int, bytes]:
    """Patches to the header of a WAV file of unknown length that make libsndfile read it to its end.

    Returns:
        Replacement bytes by position; empty if the header holds the length, and for files other than WAV.
    """
    with open(path, "rb") as file:
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        kind = file.read(12)
        if kind[:4] not in (b"RIFF", b"RF64") or kind[8:] != b"WAVE":
            return {}
        empty_data, position, size_of_rf64 = None, 12, None
        while len(chunk := file.read(24)) >= 8 and chunk[:4].isascii() and chunk[:4].decode().isprintable():
            name, size = chunk[:4], int.from_bytes(chunk[4:8], "little")
            if name == b"ds64":
                size_of_rf64 = int.from_bytes(chunk[16:24], "little")
            elif name == b"data" and size == 0xFFFFFFFF and size_of_rf64 == 0:
                return {0: b"RIFF"}
            elif name == b"data" and size == 0:
                empty_data = position + 4
            elif name == b"data":
                return {}
            position += 8 + size + size % 2
            file.seek(position)
    # If only further chunks follow the data chunk of length 0, the file has no samples.
    return {} if empty_data is None or position == num_bytes else {empty_data: b"\xff" * 4}


def _blocks(file: _InOrder) -> Iterator[Float[np.ndarray, "samples channels"]]:
    """Iterate over the remaining samples in blocks; each block overwrites the previous one in memory."""
    buffer = np.empty((max(1, BLOCK_VALUES // file.channels), file.channels), np.float32)
    while len(block := file.read(out=buffer, frames=len(buffer))):
        yield block


def _read(path: str | Path, start: int, length: int, info: AudioInfo) -> Float[np.ndarray, "channels samples"]:
    if length == 0:
        return np.zeros((info.num_channels, 0), np.float32)
    begin = start - PREROLL.get(info.format, 0)
    with _opened(path) as file:
        if begin > 0 and soundfile.SoundFile.seekable(file):
            file.seek(begin)
        else:
            begin = 0
        most = max(1, BLOCK_VALUES // info.num_channels)
        while begin < start and (dropped := len(file.read(min(most, start - begin), dtype="float32"))):
            begin += dropped
        samples = file.read(length, dtype="float32", always_2d=True)
    _check_length(path, begin + len(samples), start + length)
    _check_finite(path, samples, start, info)
    return samples.T


def _check_length(path: str | Path, num_samples: int, expected: int) -> None:
    if num_samples < expected:
        raise LassError(f"{path} is damaged: it ends after {num_samples} samples instead of {expected}.")


def _check_finite(path: str | Path, samples: np.ndarray, start: int, info: AudioInfo) -> None:
    if not np.isfinite(samples).all():
        seconds = (start + np.argmin(np.isfinite(samples).all(1))) / info.sample_rate
        raise LassError(f"{path} holds NaN or infinite values after {seconds:.1f} s: expected finite samples.")


def rms_db(samples: np.ndarray | Tensor) -> float:
    """Root mean square in dB of full scale: 0 dB for a square wave from -1 to 1, -inf for zeros."""
    mean_square = float(torch.as_tensor(samples).double().square().mean()) if len(samples) else 0.0
    return 10 * math.log10(mean_square) if mean_square else -math.inf
