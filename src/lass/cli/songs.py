"""`lass separate` for songs of any length, sample rate and number of channels, in constant memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from jsonargparse import Namespace
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from lass.cli.files import SONGS, find_files, folder_name, make_folder, refuse_to_lose
from lass.codecs import block_of
from lass.data.audio.files import AudioInfo, audio_info, check_whole, read_segment, resampled_length
from lass.errors import LassError
from lass.priors import BoundedPrior
from lass.report.figures import image_grid, literal, picture
from lass.report.spectrograms import spectrograms
from lass.separation import Separator
from lass.separation.algorithm import Progress
from lass.separation.streaming import audio_codec_of, num_windows, separate_stream

FIGURE = "spectrograms.png"
PICTURED_SECONDS = 30.0  # duration of the excerpt in the figure, from the middle of the song
BLOCK_VALUES = 2**22  # samples times channels per read and write
POSITIONS = partial(tqdm, desc="codes", unit="code", leave=False, delay=2.0)  # progress bar, shown after 2 s
UNBOUNDED_WINDOW = 1024  # code positions, for priors of sequences of any length
MAX_BYTES_OF_WAV = 2**32 - 2**16  # larger files are written as RF64, which most programs read as WAV


def separate_songs(separator: Separator, options: Namespace, root: Path, nested: bool) -> None:
    """Separate songs, and write one WAV file per source and a picture for each.

    Args:
        separator: Separator with an audio codec.
        options: Options of `lass separate`.
        root: Folder of the outputs.
        nested: Whether a single song has a folder of its own in `root`, as several have.

    Raises:
        LassError: see `lass.cli.separate.main`.
    """
    if options.classes is not None:
        raise LassError("Songs are separated by their priors, not by classes: leave out --classes.")
    if options.fit is not None:
        raise LassError("--fit is for images, songs may have any length: leave it out.")
    files = find_files(options.mixtures, SONGS, "songs", "song.wav")
    targets = targets_of(files, root, separator, nested)
    for path in files:
        check_song(path, separator)
    make_folder(root)
    refuse_to_lose(root, [*chain(*targets.values())], files, options.overwrite)
    for path in files:
        separate_song(path, targets[path], separator, options.seed)
    print(literal(f"Estimates of {len(files)} song(s) are in {root}, e.g. {targets[files[0]][0]}"))


def targets_of(files: Sequence[Path], out: Path, separator: Separator, nested: bool) -> dict[Path, list[Path]]:
    """Return the output paths of each song: its estimates, then its figure.

    They are in `out` for a single song that is not nested, and otherwise in `out/<name of the song>`.
    """
    numbered = [f"source-{source + 1}" for source in range(len(separator.priors))]
    names = [f"{name}.wav" for name in separator.source_names or numbered]
    folders = [out / folder_name(path) if nested or len(files) > 1 else out for path in files]
    return {path: [folder / name for name in (*names, FIGURE)] for path, folder in zip(files, folders, strict=True)}


def check_song(path: Path, separator: Separator) -> AudioInfo:
    """Decode a song once as a check, and return its properties.

    Raises:
        LassError: if the file is not audio, is damaged, is shorter than one code, or contains NaN.
    """
    info, codec = audio_info(path), audio_codec_of(separator)
    if not info.num_samples:
        raise LassError(f"{path} holds no sound: it has a length of 0 samples.")
    if resampled_length(info.num_samples, info.sample_rate, codec.sample_rate) < codec.hop:
        least = codec.hop / codec.sample_rate
        raise LassError(
            f"{path} lasts {info.num_samples / info.sample_rate:.4f} s, less than one code of this separator: "
            f"expected at least {least:.4f} s."
        )
    check_whole(path)
    return info


def separate_song(
    path: Path, targets: Sequence[Path], separator: Separator, seed: int, progress: Progress | None = None
) -> None:
    """Separate a song and write one audio file per source, with the song's sample rate, length and channels; and plot.

    The written sources add up to the song. A separator with mixing weights wₛ of mean w̄ is given w̄ times the song, and
    its estimate xˢ is written as xˢ wₛ / w̄, which is xˢ where all weights are equal.

    Args:
        path: Path of the song.
        targets: Paths of the estimates, one per source, and of the figure.
        separator: Separator with an audio codec.
        seed: Seed of the sampler.
        progress: Wrapper of the loop over the code positions of a window, see `separate_stream`; default progress bars
            in the terminal.

    Raises:
        LassError: as in `check_song`, or if the estimates cannot be written; then none of them is.
    """
    info, codec = check_song(path, separator), audio_codec_of(separator)
    num_samples = resampled_length(info.num_samples, info.sample_rate, codec.sample_rate)
    bounds = [prior.num_positions for prior in separator.priors if isinstance(prior, BoundedPrior)]
    block = block_of(codec)
    window = min(bounds, default=UNBOUNDED_WINDOW) // block * block
    context = window // 2 // block * block

    *files, figure = targets
    weights = separator.mixing_weights or [1 / len(files)] * len(files)
    level = math.fsum(weights) / len(files)

    def read(start: int, length: int) -> Float[Tensor, "channels samples"]:
        return level * read_segment(path, start, length, codec.sample_rate)

    folder = files[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".separating-") as temporary:
            drafts = [Path(temporary) / f".draft-{i}.wav" for i in range(len(files))]  # no source has such a name
            total = num_windows(num_samples, codec, window, context)
            pieces = separate_stream(
                read,
                num_samples,
                separator,
                window=window,
                context=context,
                seed=seed,
                progress=progress or POSITIONS,
            )
            with ExitStack() as stack:
                sinks = [stack.enter_context(_Sink(draft, codec.sample_rate, info, "RF64")) for draft in drafts]
                for piece in tqdm(pieces, path.name, total, unit="window", disable=progress is not None):
                    for sink, samples, weight in zip(sinks, piece, weights, strict=True):
                        sink.write((weight / level * samples).T.cpu().numpy())
            finished = [Path(temporary) / file.name for file in files]
            for draft, file in zip(drafts, finished, strict=True):
                _at_rate_of(info, draft, file)
            for file, target in zip(finished, files, strict=True):
                os.replace(file, target)
    except OSError as error:
        raise LassError(
            f"The estimates of {path} cannot be written to {folder} ({error.strerror or error}): free some space there "
            "or choose another --out."
        ) from error
    picture(lambda: _picture(path, files, info), figure)


class _Sink(soundfile.SoundFile):
    """Audio file open for writing that raises OSError if the disk is full."""

    def __init__(self, path: Path, sample_rate: int, info: AudioInfo, kind: str) -> None:
        with _as_os_error():
            super().__init__(str(path), "w", sample_rate, info.num_channels, "FLOAT", format=kind)

    def write(self, data: np.ndarray) -> None:
        """Append an array of shape (samples, channels)."""
        with _as_os_error():
            super().write(data)


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except (soundfile.LibsndfileError, AssertionError) as error:  # AssertionError: soundfile's, on a partial write
        raise OSError("the disk is full or fails") from error


def _at_rate_of(info: AudioInfo, draft: Path, file: Path) -> None:
    """Resample `draft` to the song's sample rate and exact length, block by block, and write it to `file`."""
    small = info.num_samples * info.num_channels * 4 < MAX_BYTES_OF_WAV
    with _Sink(file, info.sample_rate, info, "WAV" if small else "RF64") as sink:
        for start, length in _blocks(0, info.num_samples, info.num_channels):
            sink.write(read_segment(draft, start, length, info.sample_rate).T.numpy())


def _blocks(start: int, stop: int, num_channels: int) -> Iterator[tuple[int, int]]:
    """Iterate over (start, length) of blocks of at most `BLOCK_VALUES` values."""
    block = max(1, BLOCK_VALUES // num_channels)
    return ((first, min(block, stop - first)) for first in range(start, stop, block))


def _picture(song: Path, files: Sequence[Path], info: AudioInfo) -> Figure:
    length = min(info.num_samples, round(PICTURED_SECONDS * info.sample_rate))
    start = (info.num_samples - length) // 2
    signals = [_mono(path, start, start + length, info) for path in (song, *files)]
    columns = dict(
        zip(["song", *(file.stem for file in files)], spectrograms(torch.stack(signals))[:, None], strict=True)
    )
    seconds = f"{start / info.sample_rate:.0f} to {(start + length) / info.sample_rate:.0f} s"
    return image_grid(columns, [song.stem], f"Spectrograms, {seconds}")


def _mono(path: Path, start: int, stop: int, info: AudioInfo) -> Float[Tensor, "1 samples"]:
    pieces = _blocks(start, stop, info.num_channels)
    return torch.cat([read_segment(path, *piece, info.sample_rate).mean(0, keepdim=True) for piece in pieces], 1)
