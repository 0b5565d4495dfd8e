"""Separation of one image into picture files."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib import colormaps
from torch import Tensor

from lass.app.models import Model
from lass.app.outcome import Candidate, Outcome, Picture, archived
from lass.app.progress import Watch
from lass.app.settings import Limits, Settings
from lass.codecs import ImageCodec
from lass.data.images.files import opened_image, read_image, write_image
from lass.errors import LassError
from lass.metrics.permutation import best_permutation
from lass.separation import Candidates, Selection, SeparationResult, Separator, num_sources_probabilities

NUM_SHOWN = 12  # candidates


@dataclass
class Recorded:
    """Selection rule that keeps the candidates from which another rule selects."""

    rule: Selection
    candidates: Candidates | None = field(default=None, init=False)

    def select(self, candidates: Candidates, *arguments, **options) -> Tensor:
        """See `Selection`."""
        self.candidates = candidates
        return self.rule.select(candidates, *arguments, **options)


def separate_image(
    mixture: Float[Tensor, "channels height width"], model: Model, settings: Settings, folder: Path, watch: Watch
) -> Outcome:
    """Separate an image and write mixture, estimates, residual, entropy and other candidates as PNG files.

    Args:
        mixture: Mean of the sources, in [0, 1].
        model: Model for images.
        settings: Settings of the separation.
        folder: Existing folder for the files.
        watch: Progress and cancellation.

    Raises:
        LassError: if the settings do not suit the model.
        Stopped: if the separation was cancelled.
    """
    number, said = _count_sources(mixture, model, settings, watch) if settings.num_sources == 0 else (None, "")
    separator = settings.separator_for(model, number)
    separator.selection = recorded = Recorded(separator.selection)
    conditions = None if settings.classes is None else torch.tensor(settings.classes)
    progress = watch.positions("Separating", model.num_positions)
    result = separator.separate(mixture, conditions, settings.seed, progress)
    watch.step(1.0, "Decoding the candidates")
    assert recorded.candidates is not None
    pictures = _write_pictures(mixture, result, folder)
    others = _write_candidates(recorded.candidates, result, separator, conditions, folder)
    num = recorded.candidates.codes.shape[1]
    said += (
        f"{type(separator.sampler).__name__} with {num} candidate{'s' * (num > 1)}, "
        f"λ = {separator.likelihood_weight:g}, seed {settings.seed}."
    )
    return Outcome(said, archived(folder), pictures, others)


def _count_sources(mixture: Tensor, model: Model, settings: Settings, watch: Watch) -> tuple[int, str]:
    """Determine the number of sources, and say it."""
    if settings.classes is not None:
        raise LassError("Classes are for a known number of sources: choose the number, or give no classes.")
    most = max(model.numbers_of_sources)
    progress = watch.positions("Counting sources", model.num_positions, most)
    separator = settings.separator_for(model, most)
    (probabilities,) = num_sources_probabilities(
        separator, mixture[None], most, seed=settings.seed, progress=progress
    ).tolist()
    number = probabilities.index(max(probabilities)) + 1
    return number, f"{number} source{'s' * (number > 1)}, with an estimated probability of {max(probabilities):.0%}. "


def _write_pictures(mixture: Tensor, result: SeparationResult, folder: Path) -> list[Picture]:
    assert result.residual is not None  # a Separator gives both
    assert result.entropy is not None
    residual, entropy = result.residual.abs(), result.entropy
    error, most = float(residual.square().mean().sqrt()), float(entropy.max())
    images: dict[str, tuple[Tensor, str, int | None]] = {"mixture": (mixture, "mixture", None)}
    for source, estimate in enumerate(result.estimates):
        images[f"estimate-{source + 1}"] = (estimate, f"estimate {source + 1}", source)
    images["residual"] = (residual, f"residual, RMS {error:.3f}", None)
    images["entropy"] = (_coloured(entropy), f"entropy, up to {most:.1f} nats", None)
    pictures = []
    for name, (image, caption, of_source) in images.items():
        write_image(folder / f"{name}.png", image)
        pictures.append(Picture(folder / f"{name}.png", caption, of_source))
    return pictures


def _coloured(entropy: Float[Tensor, "*grid"]) -> Float[Tensor, "3 rows columns"]:
    """Colours of a map, from 0 to its maximum."""
    level = entropy.cpu() / entropy.max().clamp(min=1e-6).cpu()
    rgb = colormaps["magma"](level.view(len(level), -1).numpy())[..., :3]
    return torch.from_numpy(rgb).float().movedim(-1, 0)


@torch.no_grad()
def _write_candidates(
    candidates: Candidates, result: SeparationResult, separator: Separator, conditions: Tensor | None, folder: Path
) -> list[Candidate]:
    """Decode the best distinct candidates, in the order of the estimates' sources, without refinement."""
    codec, (codes,), (scores,) = separator.codec, candidates.codes, candidates.scores
    assert isinstance(codec, ImageCodec)
    distinct: dict[tuple[int, ...], int] = {}  # candidates are sorted by score: the first of equal ones is kept
    for number, sequence in enumerate(codes.flatten(1).tolist()):
        distinct.setdefault(tuple(sequence), number)
    chosen = list(distinct.values())[:NUM_SHOWN]
    signals = codec.decode(codes[chosen].flatten(0, 1).unflatten(-1, codec.grid)).unflatten(0, (len(chosen), -1))
    distance = (signals[:, :, None] - result.estimates[None, None]).square().flatten(3).mean(3)
    group = separator.exchangeable(None if conditions is None else conditions[None], 1)
    order = best_permutation(-distance, group.expand(len(chosen), -1))
    shown = []
    for i, (number, sources) in enumerate(zip(chosen, order, strict=True)):
        paths = [folder / f"candidate-{i + 1:02d}-{source + 1}.png" for source in range(len(sources))]
        for path, source in zip(paths, sources, strict=True):
            write_image(path, signals[i, source])
        shown.append(Candidate(paths, f"log posterior {float(scores[number]):.1f}".replace("-", "−")))
    return shown


def read_mixture(path: Path, model: Model, limits: Limits) -> Float[Tensor, "channels height width"]:
    """Read an image file as `lass separate --fit crop` does; see `read_image`.

    Raises:
        LassError: if it is no image, is damaged, cannot be converted, or has too many pixels.
    """
    with contextlib.suppress(OSError), opened_image(path) as image:  # otherwise, `read_image` says what is wrong
        if image.width * image.height > limits.pixels:
            raise LassError(
                f"{path.name} has {image.height}×{image.width} pixels: expected at most {limits.pixels:,}, "
                "so resize it."
            )
    return read_image(path, model.image_shape, "crop")
