"""Draw Algorithm 1: python docs/figures/algorithm.py writes algorithm.png beside this file.

The images, the codes of the mixture and the estimates are those of docs/mixture.png and pretrained/mnist. The tables in
the middle are an example with six codes, in which the posterior is computed from the priors and the likelihood.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from lass import Separator, read_image

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

WIDTH, HEIGHT = 8.6, 6.1  # in inches, which are the units of all positions
INK, SOFT, MIXTURE, POSTERIOR, DRAWN = "#2b2f36", "#7d858f", "#5b3f8c", "#1b7f5c", "#d62728"
SOURCES = ("#1f77b4", "#d9752c")
POSITION = 24  # code position that is shown, in the middle of the 7×7 grid
CODE = 0.2  # side of a cell
LEFT, LOW, SIDE = (3.3, 5.05, 6.8), 2.6, 6 * CODE  # corners and side of the three tables

#: Example with six codes. The likelihood has entries only for pairs that were counted with the code of the mixture.
PRIORS = np.array([[0.05, 0.4, 0.1, 0.05, 0.3, 0.1], [0.1, 0.05, 0.35, 0.15, 0.05, 0.3]])
LIKELIHOOD = np.zeros((6, 6))  # row: code of source 2, column: code of source 1
LIKELIHOOD[[4, 2, 5, 1, 4, 3, 2, 0, 1, 2], [0, 1, 1, 2, 2, 3, 4, 4, 5, 5]] = [
    *(0.5, 0.8, 0.35, 0.8, 0.3, 0.6, 0.25, 0.5, 0.35, 0.4)
]
TUPLES = [(2, 1), (2, 4), (5, 1)]  # drawn by the sampler


def text(axes: Axes, x: float, y: float, words: str, color: str = INK, size: float = 9, align: str = "center") -> None:
    """Write words at a position."""
    axes.text(x, y, words, ha=align, va="center", fontsize=size, color=color, linespacing=1.45)


def box(axes: Axes, x: float, y: float, width: float, words: str, color: str = INK) -> None:
    """Draw a step of the algorithm: a rounded box with its name, centred at (x, y)."""
    corner = (x - width / 2, y - 0.18)
    axes.add_patch(FancyBboxPatch(corner, width, 0.36, "round,pad=0,rounding_size=0.08", fc="white", ec=color, lw=1.2))
    text(axes, x, y - 0.01, words, color, 8.5)


def arrow(axes: Axes, *points: tuple[float, float], color: str = SOFT) -> None:
    """Draw an arrow along straight lines."""
    *line, (x, y) = points
    axes.plot(*zip(*line, line[-1], strict=True), color=color, lw=1.2, solid_joinstyle="round")
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axes.annotate("", (x, y), line[-1], arrowprops=style)


def picture(axes: Axes, image: np.ndarray, x: float, y: float, side: float, color: str) -> None:
    """Draw a grey image with its lower left corner at (x, y)."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(x, x + side, y, y + side), interpolation="nearest")
    axes.add_patch(Rectangle((x, y), side, side, fill=False, ec=color, lw=1.6))


def table(axes: Axes, values: np.ndarray, x: float, name: str, color: str) -> None:
    """Draw a table of pairs of codes, with its name below."""
    shades = LinearSegmentedColormap.from_list("", ["white", color])
    axes.imshow(values / values.max(), cmap=shades, vmin=0, vmax=1.05, extent=(x, x + SIDE, LOW, LOW + SIDE))
    for line in np.arange(len(values) + 1) * CODE:
        axes.plot([x, x + SIDE], [LOW + line] * 2, color="#d0d4da", lw=0.6)
        axes.plot([x + line] * 2, [LOW, LOW + SIDE], color="#d0d4da", lw=0.6)
    text(axes, x + SIDE / 2, LOW - 0.27, name, color, 8.5)


def strip(axes: Axes, x: float, y: float, shades: np.ndarray, color: str) -> None:
    """Draw a sequence of codes as shaded cells; y is the middle."""
    for i, shade in enumerate(shades):
        cell = (x + i * CODE, y - CODE / 2)
        axes.add_patch(Rectangle(cell, CODE, CODE, fc=color, ec="white", lw=0.8, alpha=0.25 + 0.75 * shade))


def draw_encoding(axes: Axes, mixture: np.ndarray, codes: np.ndarray) -> None:
    """Draw the mixture, its codes, and the way of one code to the likelihood."""
    picture(axes, mixture, 0.3, 4.75, 1.1, MIXTURE)
    text(axes, 0.85, 5.98, "mixture y", MIXTURE)
    arrow(axes, (1.46, 5.3), (1.68, 5.3))
    box(axes, 2.1, 5.3, 0.84, "encoder")
    arrow(axes, (2.52, 5.3), (2.78, 5.3))
    shades = np.unique(codes, return_inverse=True)[1].reshape(codes.shape)
    axes.imshow(shades, cmap="Purples", vmin=-4, vmax=shades.max() * 1.3, extent=(2.85, 3.95, 4.75, 5.85))
    axes.add_patch(Rectangle((2.85, 4.75), 1.1, 1.1, fill=False, ec=MIXTURE, lw=1.6))
    text(axes, 3.4, 5.98, "codes m", MIXTURE)
    side = 1.1 / len(codes)
    row, column = divmod(POSITION, len(codes))
    x, y = 2.85 + column * side, 5.85 - (row + 1) * side
    axes.add_patch(Rectangle((x, y), side, side, fill=False, ec=INK, lw=1.8))
    target = LEFT[1] + SIDE / 2
    arrow(axes, (x + side, y + side / 2), (target, y + side / 2), (target, LOW + SIDE + 0.06), color=MIXTURE)
    text(axes, target - 0.12, 5.46, "mₛ, the code at position s", MIXTURE, 8.5)


def draw_step(axes: Axes, shades: np.ndarray) -> None:
    """Draw a candidate, the priors of its next codes, the likelihood, the posterior, and the draws."""
    for shift in (0.1, 0.05, 0):
        frame = (0.22 + shift, 2.86 + shift)
        axes.add_patch(Rectangle(frame, 1.4, 1.24, fc="white", ec="#b9bfc8", lw=0.9))
    text(axes, 0.22, 4.38, "N candidates, codes before s", INK, 8.5, "left")
    for source, y in enumerate((3.85, LOW + SIDE / 2)):
        color = SOURCES[source]
        strip(axes, 0.32, y, shades[source, :5], color)
        empty = (0.32 + 5 * CODE + 0.02, y - CODE / 2 + 0.02)
        axes.add_patch(Rectangle(empty, CODE - 0.04, CODE - 0.04, fill=False, ec=color, lw=1, ls=(0, (2, 1.5))))
        text(axes, 0.32, y - 0.2, f"source {source + 1}", color, 7.5, "left")
        arrow(axes, (1.72, y), (1.86, y))
        box(axes, 2.2, y, 0.66, f"prior {source + 1}", color)
        arrow(axes, (2.54, y), (2.82 if source else 3.24, y))
        for code, probability in enumerate(PRIORS[source]):
            if source == 0:
                bar, size = (LEFT[0] + code * CODE + 0.03, LOW + SIDE + 0.05), (CODE - 0.06, probability)
            else:
                low = LOW + SIDE - (code + 1) * CODE + 0.03
                bar, size = (LEFT[0] - 0.05 - probability, low), (probability, CODE - 0.06)
            axes.add_patch(Rectangle(bar, *size, fc=color))
    prior = np.outer(PRIORS[1], PRIORS[0])
    table(axes, prior, LEFT[0], "prior\np(z¹ₛ | past) p(z²ₛ | past)", INK)
    table(axes, LIKELIHOOD, LEFT[1], "likelihood\np(mₛ | z¹ₛ, z²ₛ)$^λ$", MIXTURE)
    table(axes, prior * LIKELIHOOD, LEFT[2], "posterior\n∝ prior × likelihood", POSTERIOR)
    text(axes, (LEFT[0] + SIDE + LEFT[1]) / 2, LOW + SIDE / 2, "×", INK, 15)
    text(axes, (LEFT[1] + SIDE + LEFT[2]) / 2, LOW + SIDE / 2, "=", INK, 15)
    for row, column in TUPLES:
        centre = (LEFT[2] + (column + 0.5) * CODE, LOW + SIDE - (row + 0.5) * CODE)
        axes.add_patch(Circle(centre, 0.075, fill=False, ec=DRAWN, lw=1.5))
    x = LEFT[2] + SIDE / 2
    arrow(axes, (x, 2.06), (x, 1.84))
    box(axes, x, 1.65, 0.84, "sampler", DRAWN)
    arrow(axes, (x - 0.43, 1.65), (0.92, 1.65), (0.92, 2.8))
    text(axes, 4.0, 1.79, "drawn pairs of codes extend the candidates; next position", INK, 8.5)


def draw_end(axes: Axes, shades: np.ndarray, estimates: np.ndarray) -> None:
    """Draw what follows the last position."""
    text(axes, 0.3, 1.22, "after the last position", INK, 8.5, "left")
    for source, y in enumerate((0.88, 0.58)):
        strip(axes, 0.3, y, shades[source], SOURCES[source])
    arrow(axes, (1.98, 0.73), (2.22, 0.73))
    box(axes, 3.02, 0.73, 1.56, "best candidate or mean")
    arrow(axes, (3.82, 0.73), (4.06, 0.73))
    box(axes, 4.56, 0.73, 0.96, "refinement")
    arrow(axes, (5.06, 0.73), (5.3, 0.73))
    box(axes, 5.72, 0.73, 0.82, "decoder")
    arrow(axes, (6.15, 0.73), (6.39, 0.73))
    for source, x in enumerate((6.48, 7.48)):
        picture(axes, estimates[source], x, 0.27, 0.92, SOURCES[source])
    text(axes, 7.44, 0.13, "estimates, which mix into y", INK, 8.5)


def draw(mixture: np.ndarray, codes: np.ndarray, estimates: np.ndarray) -> Figure:
    """Draw the figure.

    Args:
        mixture: Image of the mixture, (28, 28).
        codes: Its codes, (7, 7).
        estimates: Images of the estimates, (2, 28, 28).
    """
    figure = Figure((WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    shades = np.random.default_rng(3).random((2, 8))
    draw_encoding(axes, mixture, codes)
    draw_step(axes, shades)
    draw_end(axes, shades, estimates)
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    axes.axis("off")
    return figure


def main() -> None:
    """Separate the mixture and write the figure."""
    separator = Separator.from_pretrained(ROOT / "pretrained/mnist")
    mixture = read_image(ROOT / "docs/mixture.png")
    codes, _ = separator.encode(mixture[None])
    estimates = separator.separate(mixture).estimates
    figure = draw(mixture[0].numpy(), codes[0].numpy(), estimates[:, 0].numpy())
    figure.savefig(HERE / "algorithm.png", dpi=160)


if __name__ == "__main__":
    main()
