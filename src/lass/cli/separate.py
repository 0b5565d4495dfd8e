"""`lass separate`: separate image or audio files with a saved separator."""

from __future__ import annotations

import contextlib
import tempfile
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from lass.cli import songs
from lass.cli.parser_errors import SentenceParser
from lass.codecs import AudioCodec, ImageCodec
from lass.data.images.files import read_image, write_image
from lass.errors import LassError
from lass.report.figures import image_grid, literal, picture
from lass.separation import SeparationResult, Separator, num_sources_probabilities

FIGURE = "separations.png"
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # read from folders
AUTO = "auto"  # value of --num-sources
NUM_PICTURED = 20  # mixtures in the figure


def main(args: Sequence[str]) -> None:
    """Run `lass separate`; see `lass separate --help`.

    Raises:
        LassError: if a file cannot be read or would be overwritten (both are checked before the first separation), or
            if an estimate cannot be written.
    """
    options = parser().parse_args(args[1:])
    if options.seed < 0:
        raise LassError(f"The seed must be 0 or more, not {options.seed}.")
    automatic = options.num_sources == AUTO
    separator = Separator.from_pretrained(options.separator, None if automatic else options.num_sources)
    try:
        separator.to(options.device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, with several lines of text
        reason = str(error).splitlines()[0]
        raise LassError(f"The device {options.device!r} cannot be used ({reason}): leave out --device.") from error
    if isinstance(separator.codec, AudioCodec):
        if automatic:
            raise LassError(
                f"--num-sources {AUTO} is for images: leave it out for songs, which have one prior a source."
            )
        _separate_songs(separator, options)
    elif isinstance(separator.codec, ImageCodec):
        _separate_images(separator, separator.codec, options)
    else:
        raise LassError(f"The separator in {options.separator} is neither for images nor for audio files.")


def _separate_images(separator: Separator, codec: ImageCodec, options: Namespace) -> None:
    files = find_files(options.mixtures, SUFFIXES, "images", "mixture.png")
    mixtures = [read_image(path, codec.image_shape) for path in files]
    separators = [separator] * len(files)
    if options.num_sources == AUTO:
        if options.classes is not None:
            raise LassError(f"--classes is for a known number of sources: replace --num-sources {AUTO} by a number.")
        _make(options.out)  # what can be checked before the numbers are known
        firsts = [options.out / f"{path.stem}-1.png" for path in files]
        _refuse_to_lose(options.out, [*firsts, options.out / FIGURE], files, options.overwrite)
        separators = _separators_for(files, mixtures, separator, options.seed)
    elif options.classes is not None and len(options.classes) != len(separator.priors):
        raise LassError(
            f"--classes takes one class for each of {len(separator.priors)} sources, got {len(options.classes)}."
        )
    targets = {
        path: [options.out / f"{path.stem}-{i + 1}.png" for i in range(len(own.priors))]
        for path, own in zip(files, separators, strict=True)
    }
    _make(options.out)
    _refuse_to_lose(options.out, [*chain(*targets.values()), options.out / FIGURE], files, options.overwrite)
    conditions = None if options.classes is None else torch.tensor(options.classes)
    pictured: list[SeparationResult] = []
    for path, mixture, own in zip(tqdm(files, "Separating", unit="mixture"), mixtures, separators, strict=True):
        result = own.separate(mixture, conditions, options.seed, songs.POSITIONS)
        for target, estimate in zip(targets[path], result.estimates, strict=True):
            with _writing(target):
                write_image(target, estimate)
        if len(pictured) < NUM_PICTURED:
            pictured.append(result)
    has_picture = picture(lambda: _picture(files, mixtures, pictured), options.out / FIGURE)
    said = f"Estimates of {len(files)} mixture(s) are in {options.out}"
    print(literal(f"{said}; picture: {options.out / FIGURE}" if has_picture else said))


def _separators_for(
    files: Sequence[Path], mixtures: Sequence[Tensor], separator: Separator, seed: int
) -> list[Separator]:
    """Determine each image's number of sources, print it, and return a separator for it."""
    separators = []
    for path, mixture in zip(tqdm(files, "Counting sources", unit="mixture"), mixtures, strict=True):
        (probabilities,) = num_sources_probabilities(separator, mixture[None], seed=seed, progress=songs.POSITIONS)
        number = int(probabilities.argmax()) + 1
        tqdm.write(
            literal(
                f"{path}: {number} source(s), with an estimated probability of {probabilities[number - 1]:.0%} among 1 "
                f"to {len(probabilities)}"
            )
        )
        separators.append(separator.with_num_sources(number))
    return separators


def _separate_songs(separator: Separator, options: Namespace) -> None:
    if options.classes is not None:
        raise LassError("Songs are separated by their priors, not by classes: leave out --classes.")
    files = find_files(options.mixtures, songs.SUFFIXES, "songs", "song.wav")
    targets = songs.targets_of(files, options.out, separator)
    for path in files:
        songs.check_song(path, separator)
    _make(options.out)
    _refuse_to_lose(options.out, [*chain(*targets.values())], files, options.overwrite)
    for path in files:
        songs.separate_song(path, targets[path], separator, options.seed)
    print(literal(f"Estimates of {len(files)} song(s) are in {options.out}, e.g. {targets[files[0]][0]}"))


def find_files(paths: Sequence[Path], suffixes: set[str], what: str, example: str) -> list[Path]:
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


def _visible(folder: Path, suffixes: set[str]) -> list[Path]:
    named = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(path for path in named if not path.is_dir())


def _identity(path: Path) -> tuple[int, int] | Path:
    """Return a key that is equal for all paths of one file, including links and other cases of letters."""
    try:
        status = path.stat()
    except OSError:
        return path.absolute()
    return status.st_dev, status.st_ino


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LassError(f"The folder {folder} cannot be made ({error.strerror}): choose another --out.") from error


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Raise an OSError in the block as LassError: the file or folder `target` cannot be written."""
    try:
        yield
    except OSError as error:
        raise LassError(
            f"{target} cannot be written ({error.strerror or error}): make room or choose another --out; files that "
            "are there already are complete."
        ) from error


def _refuse_to_lose(out: Path, targets: Sequence[Path], files: Sequence[Path], overwrite: bool) -> None:
    """Raise LassError if an output file would replace another output, a mixture, or without `overwrite` any file.

    Args:
        out: Existing folder of all targets.
        targets: Files to be written.
        files: Files of the mixtures.
        overwrite: Whether files that are neither outputs nor mixtures may be replaced.
    """
    with _writing(out):
        fold = _without_case if _ignores_case(out) else str
    times = Counter(map(fold, targets))
    mixtures = set(map(_identity, files))
    for target in targets:
        if times[fold(target)] > 1:
            raise LassError(f"Two of the mixtures would both become {target}: give them different names.")
        with _writing(target):  # the name may be too long
            exists = target.exists()
        if exists and _identity(target) in mixtures:
            raise LassError(f"{target} is one of the mixtures and would be overwritten: choose another --out.")
        if exists and not overwrite:
            raise LassError(f"{target} is there already: choose another --out, or replace it with --overwrite.")


def _ignores_case(folder: Path) -> bool:
    """Whether file names in a folder are case-insensitive, as on macOS and Windows."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".case-") as probe:
        return (folder / Path(probe.name).name.swapcase()).exists()


def _without_case(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _picture(files: Sequence[Path], mixtures: Sequence[Tensor], results: Sequence[SeparationResult]) -> Figure:
    """Plot the first `len(results)` mixtures with their estimates and residuals."""
    columns = {"mixture": torch.stack(list(mixtures[: len(results)]))}
    most = max(len(result.estimates) for result in results)
    for source in range(most):
        columns[f"estimate {source + 1}"] = torch.stack(
            [
                result.estimates[source] if source < len(result.estimates) else torch.ones_like(result.estimates[0])
                for result in results
            ]
        )
    residuals = [result.residual.abs() for result in results if result.residual is not None]  # a Separator gives it
    columns["|residual|"] = torch.stack(residuals)
    return image_grid(columns, [path.stem for path in files[: len(results)]], "Mixtures and their estimates")


def parser() -> SentenceParser:
    """Build the parser of `lass separate`."""
    options = SentenceParser("lass separate", "Separate image files (mixture.png into one PNG per source) or songs.")
    options.add_argument("mixtures", nargs="+", type=Path, help="image or audio files, or folders of them")
    options.add_argument("--separator", type=Path, required=True, help="folder of a separator, e.g. pretrained/mnist")
    options.add_argument("--out", type=Path, required=True, help="folder for the estimates and the picture")
    options.add_argument(
        "--num-sources",
        type=int | Literal["auto"],
        help="number of sources, if one prior is for all of them; auto determines it for each image, from 1 to 4",
    )
    options.add_argument("--classes", type=int, nargs="+", help="class of each source, where they are known")
    options.add_argument("--seed", type=int, default=0, help="another one gives another sample")
    options.add_argument("--device", default="cpu", help="cpu, cuda, …")
    options.add_argument("--overwrite", action="store_true", help="replace files in the folder")
    return options
