"""Audio files: read by seeking, at any rate."""

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

ZERO_CROSSINGS = 16  # to each side, of the windowed sinc that resamples
KAISER_BETA = 8.0  # of its window: what would be folded down is weaker by 80 dB
LOWEST_RATE, HIGHEST_RATE = 1_000, 384_000  # Hz; the filter above grows with the rate
MAX_CHANNELS = 64
BLOCK_VALUES = 2**20  # samples times channels that are decoded at once

# Decoders with a memory give wrong samples for a while after a seek, so that a segment is decoded from earlier on. A
# frame of an MP3 file has at least 576 samples and may refer to 255 bytes before it, and at 8 kbit/s a stereo frame has
# no more than 3 bytes for them to lie in. The signal that Opus predicts from fades in a few seconds. And libsndfile
# misplaces what follows a seek into the last page of a Vorbis file: up to 255 packets, of 1,024 samples in libvorbis.
PREROLL = {"MP3": 2**18, "OGG": 2**18}  # samples
MAX_BYTES_OF_PAGE = 65_307

# A longer file must consist of digital silence, or its header does not know or lies.
MAX_SAMPLES_PER_BYTE = 64
# Programs that write a WAV file into a pipe give it a length of 0, or of about 2 or 4 GB.
MIN_UNKNOWN_LENGTH = 2**31 - 2**16  # bytes
# libsndfile's remark that a file ends before its header says. A difference of some bytes is a mistake in the header.
CUT_OFF = re.compile(r"^\s*(?:riff(?: size)?|form|data(?: size)?|ssnd)\s*:\s*(\d+) \(should be (\d+)\)", re.I | re.M)
MIN_CUT_OFF = 256  # bytes


class AudioInfo(NamedTuple):
    """Properties of a file."""

    sample_rate: int  # in Hz
    num_samples: int  # per channel; counted where the header cannot be trusted
    num_channels: int
    format: str  # of the file, e.g. FLAC
    subtype: str  # of its samples, e.g. PCM_16


def audio_info(path: str | Path) -> AudioInfo:
    """Rate, length and channels of a file.

    Files whose header does not hold their exact length (MP3, Ogg, FLAC from a pipe) are decoded once to count it. A
    file that ends before its header says is read to its end, with a warning.

    Raises:
        LassError: if it is missing or no audio that libsndfile knows, or if the rate or the number of channels makes no
            sense.
    """
    if not Path(path).is_file():
        raise LassError(f"There is no audio file at {path}.")
    facts = Path(path).stat()
    return _audio_info(str(path), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=2**14)
def _audio_info(path: str, num_bytes: int, changed_ns: int) -> AudioInfo:
    """`audio_info` of a file of that size and time of change."""
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
        reason = f"it ends after {info.num_samples} samples, earlier than its header says"
    if reason:
        warnings.warn(f"{path} is not whole: {reason}; only the samples that are there are read.", stacklevel=3)
    return info


def _counts_frames(path: str) -> bool:
    """Whether the first frame of an MP3 file tells the number of frames; else its length is an estimate."""
    with open(path, "rb") as file:
        tag = file.read(10)
        if tag[:3] == b"ID3":  # a title, pictures …, whose size is in four bytes of seven bits
            file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False)))
        else:
            file.seek(0)
        frame = file.read(2048)
    return b"Xing" in frame or b"Info" in frame


def _flaw_of_ogg(path: str) -> str | None:
    """Why an Ogg file does not end where its only stream does."""
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
        LassError: as `audio_info`, or if the file is damaged or the part holds NaN or infinite values.
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


def check_whole(path: str | Path) -> None:
    """Decode a file from beginning to end, block by block.

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
    """(channels, samples) at `wanted` / `native` of their rate, rounded up in length; the first sample stays first."""
    if native == wanted or not samples.size:
        return samples
    return resample_poly(samples, wanted, native, axis=1, window=_low_pass(max(native, wanted)))


@lru_cache(maxsize=8)
def _low_pass(factor: int) -> np.ndarray:
    """Filter that passes what is below 1 / `factor` of the highest frequency."""
    return firwin(2 * ZERO_CROSSINGS * factor + 1, 1 / factor, window=("kaiser", KAISER_BETA)).astype(np.float32)


class _InOrder(soundfile.SoundFile):
    """A file whose reads follow each other.

    Its base class seeks after each read to where the file is anyway. That resets decoders with a memory, and fails at
    the end of a file of unknown length.
    """

    def seekable(self) -> bool:
        """Whether to seek after each read."""
        return False


class _Patched(io.FileIO):
    """A file in which some bytes appear to be others: {position: bytes}."""

    def __init__(self, path: str, patches: dict[int, bytes]) -> None:
        super().__init__(path)
        self.patches = patches

    def readinto(self, buffer) -> int:
        """Fill the buffer from the current position on."""
        start, view = self.tell(), memoryview(buffer).cast("B")
        num_bytes = super().readinto(view)
        for position, patch in self.patches.items():
            for i, byte in enumerate(patch, position - start):
                if 0 <= i < num_bytes:
                    view[i] = byte
        return num_bytes


@contextmanager
def _opened(path: str | Path) -> Iterator[_InOrder]:
    """A file to be read in order; errors of libsndfile become LassErrors."""
    path, opened = str(path), False
    try:
        with ExitStack() as stack:
            patches = _missing_sizes(path)
            file = stack.enter_context(_Patched(path, patches)) if patches else path
            file = stack.enter_context(_InOrder(file))
            opened = True
            yield file
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError) as error:  # TypeError: for *.raw
        if not opened:
            raise LassError(f"{path} is no audio file that can be read (wav, flac, mp3, ogg …): {error}.") from error
        raise LassError(f"{path} is damaged: {error}.") from error


def _missing_sizes(path: str) -> dict[int, bytes]:
    """What to change in the header of a WAV file of unknown length, so that libsndfile reads it to its end.

    Returns:
        Bytes by position; empty where the header knows the length, and for all other files.
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
    # Where nothing but further chunks follows, the file is empty indeed.
    return {} if empty_data is None or position == num_bytes else {empty_data: b"\xff" * 4}


def _blocks(file: _InOrder) -> Iterator[Float[np.ndarray, "samples channels"]]:
    """What follows in a file, piece by piece; a piece is overwritten by the next."""
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
    """Root mean square in dB of full scale (a square wave from -1 to 1 has 0 dB); -inf for silence."""
    mean_square = float(torch.as_tensor(samples).double().square().mean()) if len(samples) else 0.0
    return 10 * math.log10(mean_square) if mean_square else -math.inf
