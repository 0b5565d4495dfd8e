"""`lass separate` for images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from lass.cli import songs
from lass.cli.files import IMAGES, find_files, folder_name, make_folder, refuse_to_lose, remove_surplus, writing
from lass.codecs import ImageCodec
from lass.data.images.files import read_image, write_image
from lass.errors import LassError
from lass.report.figures import image_grid, literal, picture
from lass.separation import SeparationResult, Separator, num_sources_probabilities

FIGURE = "separations.png"
AUTO = "auto"  # value of --num-sources
NUM_PICTURED = 20  # mixtures in figures


def separate_images(separator: Separator, codec: ImageCodec, options: Namespace, root: Path, nested: bool) -> None:
    """Separate image files, and write one PNG per source and a picture.

    Args:
        separator: The separator.
        codec: Its codec.
        options: Options of `lass separate`.
        root: Folder of the outputs.
        nested: Whether each file has a folder of its own in `root`, with its own picture.

    Raises:
        LassError: see `lass.cli.separate.main`.
    """
    files = find_files(options.mixtures, IMAGES, "images", "mixture.png")
    mixtures = [read_image(path, codec.image_shape, options.fit) for path in files]
    folders = [root / folder_name(path) if nested else root for path in files]
    separators = [separator] * len(files)
    pictures: dict[Path, list[int]] = {}
    for i, folder in enumerate(folders if nested else folders[:NUM_PICTURED]):
        pictures.setdefault(folder / FIGURE, []).append(i)
    if options.num_sources == AUTO:
        if options.classes is not None:
            raise LassError(f"--classes is for a known number of sources: replace --num-sources {AUTO} by a number.")
        make_folder(root)  # what can be checked before the numbers are known
        firsts = [folder / f"{path.stem}-1.png" for folder, path in zip(folders, files, strict=True)]
        refuse_to_lose(root, [*firsts, *pictures], files, options.overwrite)
        separators = _separators_for(files, mixtures, separator, options.seed)
    elif options.classes is not None and len(options.classes) != len(separator.priors):
        raise LassError(
            f"--classes takes one class for each of {len(separator.priors)} sources, got {len(options.classes)}."
        )
    targets = [
        [folder / f"{path.stem}-{i + 1}.png" for i in range(len(own.priors))]
        for folder, path, own in zip(folders, files, separators, strict=True)
    ]
    make_folder(root)
    refuse_to_lose(root, [*chain(*targets), *pictures], files, options.overwrite)
    conditions = None if options.classes is None else torch.tensor(options.classes)
    pictured: list[SeparationResult] = []
    for own_targets, mixture, own in zip(
        tqdm(targets, "Separating", unit="mixture"), mixtures, separators, strict=True
    ):
        result = own.separate(mixture, conditions, options.seed, songs.POSITIONS)
        for target, estimate in zip(own_targets, result.estimates, strict=True):
            with writing(target):
                target.parent.mkdir(exist_ok=True)
                write_image(target, estimate)
        if options.overwrite:
            with writing(own_targets[0]):
                remove_surplus(own_targets, [*files, *chain(*targets)])
        if nested or len(pictured) < NUM_PICTURED:
            pictured.append(result)
    drawn = []
    for figure, which in pictures.items():
        parts = [files[i] for i in which], [mixtures[i] for i in which], [pictured[i] for i in which]
        if picture(partial(_picture, *parts), figure):
            drawn.append(figure)
    said = f"Estimates of {len(files)} mixture(s) are in {root if len(files) > 1 else folders[0]}"
    print(literal(f"{said}; picture: {drawn[0]}" if drawn else said))


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


def _picture(files: Sequence[Path], mixtures: Sequence[Tensor], results: Sequence[SeparationResult]) -> Figure:
    """Plot mixtures with their estimates and residuals."""
    columns = {"mixture": torch.stack(list(mixtures))}
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
    return image_grid(columns, [path.stem for path in files], "Mixtures and their estimates")
