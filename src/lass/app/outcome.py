"""What a separation gives the page: files, with what they show."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ARCHIVE = "separation.zip"


class Picture(NamedTuple):
    """An image file, its caption, and the number of the source of which it is an estimate."""

    path: Path
    caption: str
    source: int | None = None


class Candidate(NamedTuple):
    """Image files of the sources of a candidate, in the order of the estimates, and a caption."""

    paths: Sequence[Path]
    caption: str


class Track(NamedTuple):
    """An audio file, its spectrogram and its name."""

    path: Path
    spectrogram: Path
    name: str


@dataclass(frozen=True)
class Outcome:
    """Result of a separation, as files in the folder of its session."""

    summary: str  # one sentence
    archive: Path  # all files
    pictures: Sequence[Picture] = ()  # mixture, estimates, residual, entropy
    candidates: Sequence[Candidate] = ()  # best first
    tracks: Sequence[Track] = ()  # song, estimates, residual


def archived(folder: Path) -> Path:
    """Write all files of a folder to one ZIP file in it, and return its path."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:  # not compressed: PNG is, and audio gains little
        for path in files:
            archive.write(path, path.name)
    return folder / ARCHIVE
