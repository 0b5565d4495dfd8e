"""`lass separate`: take image files or songs apart with a finished separator."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from lass import separate_songs
from lass.data.image_files import read_image, write_image
from lass.errors import LassError
from lass.parser_errors import SentenceParser
from lass.report.figures import image_grid, save_figure
from lass.separation import SeparationResult, Separator

FIGURE = "separations.png"
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # taken from a folder
NUM_PICTURED = 20  # mixtures in the figure


def main(args: Sequence[str]) -> None:
    """Entry point; see `lass separate --help`.

    Raises:
        LassError: if something cannot be read or would be overwritten; then nothing was separated yet.
    """
    options = parser().parse_args(args)
    if options.seed < 0:
        raise LassError(f"The seed must be 0 or more, not {options.seed}.")
    separator = Separator.from_pretrained(options.separator)
    try:
        separator.to(options.device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, and several lines of it
        reason = str(error).splitlines()[0]
        raise LassError(f"The device {options.device!r} cannot be used ({reason}): leave out --device.") from error
    if hasattr(separator.codec, "sample_rate"):
        _separate_songs(separator, options)
    elif hasattr(separator.codec, "image_shape"):
        _separate_images(separator, options)
    else:
        raise LassError(f"The separator in {options.separator} is neither for images nor for audio files.")


def _separate_images(separator: Separator, options: argparse.Namespace) -> None:
    files = find_files(options.mixtures, SUFFIXES, "images", "mixture.png")
    mixtures = [read_image(path, separator.codec.image_shape) for path in files]
    targets = {path: [options.out / f"{path.stem}-{source}.png" for source in (1, 2)] for path in files}
    _refuse_to_lose([*chain(*targets.values()), options.out / FIGURE], files, options.overwrite)
    _make(options.out)
    conditions = None if options.classes is None else torch.tensor(options.classes)
    pictured = []
    for path, mixture in zip(tqdm(files, "Separating", unit="mixture"), mixtures, strict=True):
        result = separator.separate(mixture, conditions, options.seed, separate_songs.POSITIONS)
        for target, estimate in zip(targets[path], result.estimates, strict=True):
            write_image(target, estimate)
        if len(pictured) < NUM_PICTURED:
            pictured.append(result)
    save_figure(_picture(files, mixtures, pictured), options.out / FIGURE)
    print(f"Estimates of {len(files)} mixture(s) are in {options.out}; picture: {options.out / FIGURE}")


def _separate_songs(separator: Separator, options: argparse.Namespace) -> None:
    if options.classes is not None:
        raise LassError("Songs are separated by their priors, not by classes: leave out --classes.")
    files = find_files(options.mixtures, separate_songs.SUFFIXES, "songs", "song.wav")
    targets = separate_songs.targets_of(files, options.out, separator)
    for path in files:
        separate_songs.check_song(path, separator)
    _refuse_to_lose([*chain(*targets.values())], files, options.overwrite)
    _make(options.out)
    for path in files:
        separate_songs.separate_song(path, targets[path], separator, options.seed)
    print(f"Estimates of {len(files)} song(s) are in {options.out}, e.g. {targets[files[0]][0]}")


def find_files(paths: Sequence[Path], suffixes: set[str], what: str, example: str) -> list[Path]:
    """Files as they are, and of folders every file with such a suffix, sorted.

    Raises:
        LassError: if a folder holds none.
    """
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        if not inside:
            raise LassError(f"There are no {what} in the folder {path}: expected files like {example}.")
        files += inside
    return files


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LassError(f"The folder {folder} cannot be made ({error.strerror}): choose another --out.") from error


def _refuse_to_lose(targets: Sequence[Path], files: Sequence[Path], overwrite: bool) -> None:
    twice = [target for target, times in Counter(targets).items() if times > 1]
    if twice:
        raise LassError(f"Two of the mixtures would both become {min(twice)}: give them different names.")
    same = {file.resolve() for file in files} & {target.resolve() for target in targets}
    if same:
        raise LassError(f"{min(same)} is one of the mixtures and would be overwritten: choose another --out.")
    there = [target for target in targets if target.exists()]
    if there and not overwrite:
        raise LassError(f"{there[0]} is there already: choose another --out, or replace it with --overwrite.")


def _picture(files: Sequence[Path], mixtures: Sequence[Tensor], results: Sequence[SeparationResult]) -> Figure:
    """Of as many mixtures, the first ones, as there are results."""
    first, second = torch.stack([result.estimates for result in results]).unbind(1)
    columns = {"mixture": torch.stack(list(mixtures[: len(results)])), "estimate 1": first, "estimate 2": second}
    columns["|residual|"] = torch.stack([result.residual.abs() for result in results])
    return image_grid(columns, [path.stem for path in files[: len(results)]], "Mixtures and their estimates")


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    options = SentenceParser("lass separate", description="Separate image files (mixture.png into two PNGs) or songs.")
    options.add_argument("mixtures", nargs="+", type=Path, help="image or audio files, or folders of them")
    options.add_argument("--separator", type=Path, required=True, help="folder of a separator, e.g. pretrained/mnist")
    options.add_argument("--out", type=Path, required=True, help="folder for the estimates and the picture")
    options.add_argument("--classes", type=int, nargs=2, help="classes of the two sources, where they are known")
    options.add_argument("--seed", type=int, default=0, help="another one gives another sample")
    options.add_argument("--device", default="cpu", help="cpu, cuda, …")
    options.add_argument("--overwrite", action="store_true", help="replace files in the folder")
    return options
