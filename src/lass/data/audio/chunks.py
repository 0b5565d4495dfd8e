"""Dataset of fixed-length chunks of songs, read on access, and the index of non-silent chunks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lass.artifacts import read_json
from lass.data.audio.files import audio_info, read_segment, resampled_length, rms_db
from lass.data.sources import SourceDataset, Sources
from lass.errors import LassError


class Song(NamedTuple):
    """A song: stem files by class; the files of a class are summed."""

    name: str
    stems: dict[str, list[Path]]  #: class name -> files


class Chunk(NamedTuple):
    """Position and class of a chunk."""

    song: str
    start: int  # first sample, at the sample rate of the dataset
    label: int  # position of the class in the dataset's `classes`


class AudioChunks(SourceDataset):
    """Dataset of chunks of songs, read from the stem files on access.

    Args:
        songs: Songs by name.
        chunks: Position and class of each chunk.
        classes: Class names; `Chunk.label` indexes them.
        sample_rate: Sample rate of the chunks, in Hz.
        num_samples: Length of a chunk in samples.
    """

    def __init__(
        self,
        songs: dict[str, Song],
        chunks: Sequence[Chunk],
        classes: Sequence[str],
        sample_rate: int,
        num_samples: int,
    ) -> None:
        self.songs, self.chunks, self.classes = songs, list(chunks), list(classes)
        self.sample_rate, self.num_samples = sample_rate, num_samples

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitems__(self, indices: list[int]) -> Sources:
        """The chunks at `indices` as one batch: signals (batch, 1, samples) in [-1, 1]."""
        chunks = [self.chunks[index] for index in indices]
        signals = [read_stems(self._files(chunk), chunk.start, self.num_samples, self.sample_rate) for chunk in chunks]
        return Sources(torch.stack(signals), torch.tensor([chunk.label for chunk in chunks]))

    def _files(self, chunk: Chunk) -> list[Path]:
        return self.songs[chunk.song].stems.get(self.classes[chunk.label], [])


def read_stems(files: Sequence[Path], start: int, length: int, sample_rate: int) -> Float[Tensor, "1 samples"]:
    """Sum of one segment over several files, each averaged to mono; zeros without files.

    Start and length are in samples at `sample_rate`.
    """
    if not files:
        return torch.zeros(1, length)
    stems = [read_segment(file, start, length, sample_rate).mean(0, keepdim=True) for file in files]
    return torch.stack(stems).sum(0)


def find_chunks(
    song: Song, classes: Sequence[str], sample_rate: int, num_samples: int, hop: int, silence_db: float
) -> list[Chunk]:
    """Find the non-silent chunks of a song, per class, on a grid of start positions.

    Args:
        song: Song to search.
        classes: Class names; classes without stems in the song are skipped.
        sample_rate: Sample rate in Hz to which positions and lengths refer.
        num_samples: Length of a chunk in samples; a shorter remainder at the end of the song is dropped.
        hop: Distance between the starts of successive chunks, in samples.
        silence_db: RMS threshold in dB of full scale; quieter chunks are dropped as silent.
    """
    chunks = []
    for label, name in enumerate(classes):
        files = song.stems.get(name, [])
        if not files:
            continue
        infos = [audio_info(file) for file in files]
        length = max(resampled_length(info.num_samples, info.sample_rate, sample_rate) for info in infos)
        for start in range(0, length - num_samples + 1, hop):
            if rms_db(read_stems(files, start, num_samples, sample_rate)) >= silence_db:
                chunks.append(Chunk(song.name, start, label))
    return chunks


def read_index(path: Path, songs: dict[str, Song], classes: list[str], hop: int) -> list[Chunk] | None:
    """Read the chunks of an index file; None if it is missing or damaged, so that the caller rebuilds it."""
    if not path.is_file():
        return None
    try:
        chunks = [Chunk(*chunk) for chunk in read_json(path, "index of chunks")["chunks"]]
        known = all(
            type(start) is type(label) is int
            and start >= 0
            and start % hop == 0
            and 0 <= label < len(classes)
            and classes[label] in songs[song].stems
            for song, start, label in chunks
        )
    except (LassError, KeyError, TypeError, OSError, RecursionError):
        return None
    return chunks if known else None
