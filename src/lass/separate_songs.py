"""`lass separate` for songs of any length, rate and number of channels, in memory that does not grow with them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import soundfile
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from lass.data.audio_files import AudioInfo, audio_info, read_segment, resampled_length
from lass.errors import LassError
from lass.report.figures import image_grid, save_figure
from lass.report.spectrograms import spectrograms
from lass.separation import Separator
from lass.separation.streaming import num_windows, separate_stream

FIGURE = "spectrograms.png"
SUFFIXES = {".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}  # taken from a folder
PICTURED_SECONDS = 30.0  # in the middle of the song
BLOCK_SECONDS = 30.0  # written at once
POSITIONS = partial(tqdm, desc="codes", unit="code", leave=False, delay=2.0)  # progress, where it takes seconds
MOST_BYTES_OF_WAV = 2**32 - 2**16  # a larger file is RF64, which most programs read as WAV


def targets_of(files: Sequence[Path], out: Path, separator: Separator) -> dict[Path, list[Path]]:
    """Where each song's estimates and its picture go: into `out`, or into a folder of its own if there are several."""
    names = [f"{name}.wav" for name in separator.source_names or ("source-1", "source-2")]
    folders = [out / path.stem if len(files) > 1 else out for path in files]
    return {path: [folder / name for name in (*names, FIGURE)] for path, folder in zip(files, folders, strict=True)}


def check_song(path: Path, separator: Separator) -> AudioInfo:
    """What the file says about itself.

    Raises:
        LassError: if it is no audio, shorter than one code, or holds NaN.
    """
    info, codec = audio_info(path), separator.codec
    if not info.num_samples:
        raise LassError(f"{path} holds no sound: it has a length of 0 samples.")
    if resampled_length(info.num_samples, info.sample_rate, codec.sample_rate) < codec.hop:
        least = codec.hop / codec.sample_rate
        raise LassError(
            f"{path} lasts {info.num_samples / info.sample_rate:.4f} s, less than one code of this separator: "
            f"expected at least {least:.4f} s."
        )
    if info.subtype in ("FLOAT", "DOUBLE"):  # others cannot hold NaN
        block = round(BLOCK_SECONDS * info.sample_rate)
        for start in range(0, info.num_samples, block):
            samples = read_segment(path, start, min(block, info.num_samples - start), info.sample_rate)
            if not samples.isfinite().all():
                where = start / info.sample_rate
                raise LassError(f"{path} holds NaN or infinite values after {where:.0f} s: expected finite samples.")
    return info


def separate_song(path: Path, targets: Sequence[Path], separator: Separator, seed: int) -> None:
    """Write one file per source, of the song's rate, length and channels, and a picture; all of them or none.

    The sources add up to the song, as in music, so the mixture that the codec gets is half of it: their mean.
    """
    info, codec = check_song(path, separator), separator.codec
    num_samples = resampled_length(info.num_samples, info.sample_rate, codec.sample_rate)
    window = min(getattr(prior, "num_positions", 1024) for prior in separator.priors)
    context = window // 2

    def read(start: int, length: int) -> Float[Tensor, "channels samples"]:
        return read_segment(path, start, length, codec.sample_rate) / 2

    *files, _ = targets
    files[0].parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=files[0].parent, prefix=".separating-") as folder:
        drafts = [Path(folder) / f"{i}.wav" for i in range(len(files))]
        sinks = [
            soundfile.SoundFile(str(draft), "w", codec.sample_rate, info.num_channels, "FLOAT", format="RF64")
            for draft in drafts
        ]
        total = num_windows(num_samples, codec.hop, window, context)
        pieces = separate_stream(
            read, num_samples, separator, window=window, context=context, seed=seed, progress=POSITIONS
        )
        try:
            for piece in tqdm(pieces, path.name, total, unit="window"):
                for sink, samples in zip(sinks, piece, strict=True):
                    sink.write(samples.T.cpu().numpy())
        finally:
            for sink in sinks:
                sink.close()
        finished = [Path(folder) / target.name for target in targets]
        for draft, file in zip(drafts, finished, strict=False):
            _at_rate_of(info, draft, file)
        save_figure(_picture(path, finished[:-1], info), finished[-1])
        for file, target in zip(finished, targets, strict=True):
            os.replace(file, target)


def _at_rate_of(info: AudioInfo, draft: Path, file: Path) -> None:
    """Bring a file to the song's rate and exact length, block by block."""
    block = round(BLOCK_SECONDS * info.sample_rate)
    small = info.num_samples * info.num_channels * 4 < MOST_BYTES_OF_WAV
    kind = (info.sample_rate, info.num_channels, "FLOAT", None, "WAV" if small else "RF64")
    with soundfile.SoundFile(str(file), "w", *kind) as sink:
        for start in range(0, info.num_samples, block):
            samples = read_segment(draft, start, min(block, info.num_samples - start), info.sample_rate)
            sink.write(samples.T.numpy())


def _picture(song: Path, files: Sequence[Path], info: AudioInfo) -> Figure:
    length = min(info.num_samples, round(PICTURED_SECONDS * info.sample_rate))
    start = (info.num_samples - length) // 2
    signals = [read_segment(path, start, length, info.sample_rate).mean(0, keepdim=True) for path in (song, *files)]
    columns = dict(
        zip(["song", *(file.stem for file in files)], spectrograms(torch.stack(signals))[:, None], strict=True)
    )
    seconds = f"{start / info.sample_rate:.0f} to {(start + length) / info.sample_rate:.0f} s"
    return image_grid(columns, [song.stem], f"Spectrograms, {seconds}")
