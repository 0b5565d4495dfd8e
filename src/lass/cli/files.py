"""Input and output files of `lass separate`: finding the mixtures, and losing no file of the user."""

from __future__ import annotations

import contextlib
import tempfile
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import count
from pathlib import Path
from typing import Literal

from lass.errors import LassError

#: Suffixes of the files that are taken from folders, and by which the default separator is chosen.
IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SONGS = frozenset({".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"})


def kind_of(paths: Sequence[Path]) -> Literal["image", "audio"]:
    """Return what all files, and the files in the folders, are by their suffixes.

    Raises:
        LassError: if they are of both kinds, or of neither.
    """
    suffixes: dict[str, Path] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # `find_files` reports it
            inside = _visible(path, IMAGES | SONGS) if path.is_dir() else [path]
            suffixes |= {file.suffix.lower(): path for file in inside}
    if suffixes and suffixes.keys() <= IMAGES:
        return "image"
    if suffixes and suffixes.keys() <= SONGS:
        return "audio"
    if suffixes and suffixes.keys() <= IMAGES | SONGS:
        raise LassError("There are images and songs among the mixtures: separate them with two commands.")
    unknown = next((path for suffix, path in suffixes.items() if suffix not in IMAGES | SONGS), paths[0])
    raise LassError(
        f"{unknown} is neither an image nor a song by its name: name a separator with --separator, or a file like "
        "mixture.png or song.mp3."
    )


def find_files(paths: Sequence[Path], suffixes: Set[str], what: str, example: str) -> list[Path]:
    """Expand folders to the sorted files in them that have one of the suffixes, without hidden files and subfolders.

    A file that is given twice, also through links, is returned once, with a warning.

    Args:
        paths: Files, which are returned with any suffix, and folders.
        suffixes: Suffixes of the files to find, in lower case.
        what: Plural noun for the files, for errors.
        example: Name of a file as an example, for errors.

    Raises:
        LassError: if a folder has no such file or cannot be read.
    """
    files = []
    for path in paths:
        try:
            inside = _visible(path, suffixes) if path.is_dir() else [path]
        except OSError as error:
            raise LassError(f"{path} cannot be read ({error.strerror}): name another file or folder.") from error
        if not inside:
            raise LassError(f"There are no {what} in the folder {path}: expected files like {example}.")
        files += inside
    distinct: dict[tuple[int, int] | Path, Path] = {}
    for file in files:
        distinct.setdefault(_identity(file), file)
    if len(distinct) < len(files):
        again = next(file for file, times in Counter(map(_identity, files)).items() if times > 1)
        warnings.warn(
            f"{len(files) - len(distinct)} of the {len(files)} files are there twice, under the same name or another "
            f"(for example {distinct[again]}): each is taken once.",
            stacklevel=2,
        )
    return list(distinct.values())


def _visible(folder: Path, suffixes: Set[str]) -> list[Path]:
    named = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(path for path in named if not path.is_dir())


def _identity(path: Path) -> tuple[int, int] | Path:
    """Return a key that is equal for all paths of one file, including links and other cases of letters."""
    try:
        status = path.stat()
    except OSError:
        return path.absolute()
    return status.st_dev, status.st_ino


def make_folder(folder: Path) -> None:
    """Make a folder of outputs, unless it is there. Raises LassError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LassError(f"The folder {folder} cannot be made ({error.strerror}): choose another --out.") from error


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise an OSError in the block as LassError: the file or folder `target` cannot be written."""
    try:
        yield
    except OSError as error:
        raise LassError(
            f"{target} cannot be written ({error.strerror or error}): make room or choose another --out; files that "
            "are there already are complete."
        ) from error


def refuse_to_lose(out: Path, targets: Sequence[Path], files: Sequence[Path], overwrite: bool) -> None:
    """Raise LassError if an output file would replace another output, a mixture, or without `overwrite` any file.

    Args:
        out: Existing folder of all targets.
        targets: Files to be written.
        files: Files of the mixtures.
        overwrite: Whether files that are neither outputs nor mixtures may be replaced.
    """
    with writing(out):
        fold = _without_case if _ignores_case(out) else str
    times = Counter(map(fold, targets))
    mixtures = set(map(_identity, files))
    for target in targets:
        if times[fold(target)] > 1:
            raise LassError(f"Two of the mixtures would both become {target}: give them different names.")
        with writing(target):  # the name may be too long
            exists = target.exists()
        if exists and _identity(target) in mixtures:
            raise LassError(f"{target} is one of the mixtures and would be overwritten: choose another --out.")
        if exists and not overwrite:
            raise LassError(f"{target} is there already: choose another --out, or replace it with --overwrite.")


def remove_surplus(estimates: Sequence[Path], kept: Sequence[Path]) -> None:
    """Remove what an earlier run with more sources left beside estimates: the files with the numbers that follow.

    Args:
        estimates: Estimates of one mixture, `<name>-1.png`, `<name>-2.png`, ….
        kept: Files that are not removed, whatever their name: mixtures and other outputs.
    """
    stem = estimates[0].stem.removesuffix("1")
    for number in count(len(estimates) + 1):
        path = estimates[0].with_name(f"{stem}{number}{estimates[0].suffix}")
        if not path.is_file() or _identity(path) in set(map(_identity, kept)):
            return
        path.unlink()


def _ignores_case(folder: Path) -> bool:
    """Whether file names in a folder are case-insensitive, as on macOS and Windows."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".case-") as probe:
        return (folder / Path(probe.name).name.swapcase()).exists()


def _without_case(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def folder_name(path: Path) -> str:
    """Return the name of the folder for the outputs of a file: its stem, unless that consists of dots."""
    return path.stem if path.stem.strip(".") else path.name
