"""Separation of one song into audio files and spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float
from torch import Tensor

from lass.app.models import Model
from lass.app.outcome import Outcome, Track, archived
from lass.app.progress import Watch
from lass.app.settings import Limits, Settings
from lass.cli import songs
from lass.data.audio.files import AudioInfo, audio_info, read_segment, resampled_length, rms_db
from lass.data.images.files import write_image
from lass.errors import LassError
from lass.report.spectrograms import spectrograms
from lass.separation.streaming import audio_codec_of

RESIDUAL = "residual"


def separate_song(song: Path, model: Model, settings: Settings, limits: Limits, folder: Path, watch: Watch) -> Outcome:
    """Separate a song and write its sources, the residual and all spectrograms.

    Args:
        song: Path of the song.
        model: Model for audio.
        settings: Settings of the separation.
        limits: Limits of the duration.
        folder: Existing folder for the files.
        watch: Progress and cancellation.

    Raises:
        LassError: if the song cannot be read or is too long, or the settings do not suit the model.
        Stopped: if the separation was cancelled.
    """
    watch.step(0.0, "Reading the song")
    info = audio_info(song)
    seconds = info.num_samples / info.sample_rate
    if seconds > limits.seconds:
        raise LassError(f"{song.name} lasts {seconds:.0f} s: expected at most {limits.seconds:g} s, so cut it.")
    separator = settings.separator_for(model)
    codec = audio_codec_of(separator)
    num_positions = -(-resampled_length(info.num_samples, info.sample_rate, codec.sample_rate) // codec.hop)
    *files, figure = songs.targets_of([song], folder, separator, nested=False)[song]
    progress = watch.positions("Separating", max(1, num_positions))
    songs.separate_song(song, [*files, figure], separator, settings.seed, progress)
    watch.step(1.0, "Writing files")
    taken = [file.stem for file in files]
    residual = folder / f"{_other_than(taken, RESIDUAL)}.wav"
    level = _write_residual(song, files, residual, info)
    names = [
        "song",
        *(file.stem.replace("-", " ") for file in files),
        f"{RESIDUAL}, RMS {level:.0f} dB".replace("-", "−"),
    ]
    paths = [song, *files, residual]
    stems = [_other_than(taken, "song"), *taken, residual.stem]
    pictures = [folder / f"spectrogram-{stem}.png" for stem in stems]
    for path, picture in zip(paths, pictures, strict=True):
        write_image(picture, spectrograms(_excerpt(path, info)[None])[0])
    tracks = [Track(*each) for each in zip(paths, pictures, names, strict=True)]
    shown = min(seconds, songs.PICTURED_SECONDS)
    said = (
        f"{seconds:.1f} s at {info.sample_rate:,} Hz, {type(separator.sampler).__name__}, λ = "
        f"{separator.likelihood_weight:g}, seed {settings.seed}. Spectrograms: {shown:.3g} s from "
        f"{(seconds - shown) / 2:.3g} s on, up to {info.sample_rate / 2000:g} kHz."
    )
    return Outcome(said, archived(folder), tracks=tracks)


def _other_than(taken: Sequence[str], name: str) -> str:
    """The name, with underscores appended until no source has it, also where files' names ignore case."""
    while name in [each.casefold() for each in taken]:
        name += "_"
    return name


def _write_residual(song: Path, files: Sequence[Path], target: Path, info: AudioInfo) -> float:
    """Write the song minus the sum of its estimates, block by block, and return its RMS in dB of full scale."""
    block, energy = max(1, songs.BLOCK_VALUES // info.num_channels), 0.0
    with soundfile.SoundFile(target, "w", info.sample_rate, info.num_channels, "FLOAT") as sink:
        for start in range(0, info.num_samples, block):
            piece = (start, min(block, info.num_samples - start), info.sample_rate)
            difference = read_segment(song, *piece) - sum(read_segment(file, *piece) for file in files)
            sink.write(difference.T.numpy())
            energy += float(difference.double().square().sum())
    return rms_db(np.array([(energy / (info.num_samples * info.num_channels)) ** 0.5]))


def _excerpt(path: Path, info: AudioInfo) -> Float[Tensor, "1 samples"]:
    """The middle of a file, at most `songs.PICTURED_SECONDS` long, in mono."""
    length = min(info.num_samples, round(songs.PICTURED_SECONDS * info.sample_rate))
    start = (info.num_samples - length) // 2
    return read_segment(path, start, length, info.sample_rate).mean(0, keepdim=True)
