"""Matplotlib figures of separations: image grids and entropy maps."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from lass.artifacts import atomic_write

COLUMN_INCHES = 1.1
LONGEST_LABEL = 24  # characters that fit beside an image


def image_grid(columns: Mapping[str, Float[Tensor, "num c h w"]], row_labels: Sequence[str], title: str) -> Figure:
    """Plot a grid of images in [0, 1], with one named column per entry of `columns` and one row per item."""
    height, width = next(iter(columns.values())).shape[-2:]
    row_inches = (COLUMN_INCHES - 0.2) * height / width + 0.2
    figure = Figure(figsize=(COLUMN_INCHES * len(columns) + 0.7, row_inches * len(row_labels) + 0.7))
    axes = figure.subplots(len(row_labels), len(columns), squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        for row, label in enumerate(row_labels):
            cell = axes[row, column]
            image = images[row].detach().cpu().float().clamp(0, 1).movedim(0, -1).squeeze(-1)
            cell.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
            if row == 0:
                cell.set_title(literal(name, LONGEST_LABEL), fontsize=9, parse_math=False)
            if column == 0:
                label = literal(label, LONGEST_LABEL)
                cell.set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center", parse_math=False)
    figure.suptitle(literal(title), fontsize=10, parse_math=False)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    return figure


def entropy_figure(entropy: Float[Tensor, "*grid"], num_mixtures: int) -> Figure:
    """Plot the mean entropy of each position, in nats: as a map for 2-D grids, as a line for sequences."""
    figure = Figure(figsize=(4, 3.2))
    axes = figure.subplots()
    values = entropy.detach().cpu().numpy()
    if entropy.dim() == 2:
        figure.colorbar(axes.imshow(values, vmin=0), ax=axes, label="nats")
        axes.set(xticks=[], yticks=[])
    else:
        axes.plot(values.ravel(), linewidth=0.8)
        axes.set(xlabel="position", ylabel="nats", ylim=(0, None))
    axes.set_title(f"Entropy of the candidates' codes\nmean of {num_mixtures} mixtures", fontsize=9)
    figure.tight_layout()
    return figure


def literal(text: str, longest: int | None = None) -> str:
    """Make text printable: control characters and undecodable bytes become `?`, long lines are cut in the middle.

    `$` still starts mathematics in matplotlib, so pass `parse_math=False` for any text that is not from this package.

    Args:
        text: Any text, for example the name of a file.
        longest: Maximal length of a line in characters; default unlimited.
    """
    text = "".join("?" if unicodedata.category(c) in ("Cc", "Cs") and c != "\n" else c for c in text)
    if longest is None:
        return text
    half = longest // 2
    lines = text.split("\n")
    return "\n".join(line if len(line) <= longest else f"{line[: half - 1]}…{line[-half:]}" for line in lines)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file, atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def picture(make: Callable[[], Figure], path: str | Path) -> bool:
    """Make a figure and save it as a PNG file; a failure is a warning, so that it cannot lose the results shown.

    Args:
        make: Function that makes the figure.
        path: Path of the PNG file. An existing file there is removed if the figure cannot be made or saved.

    Returns:
        Whether the figure was saved. On failure one warning is given.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # matplotlib's, for missing glyphs and small margins
            save_figure(make(), path)
    except Exception as error:
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"The picture {path} could not be made ({reason:.200}); all else is complete.", stacklevel=2)
        return False
    return True
