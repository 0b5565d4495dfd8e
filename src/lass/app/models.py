"""The separators of the page, and which of its controls apply to each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lass.cli.loading import load_separator
from lass.codecs import AudioCodec, ImageCodec
from lass.errors import LassError
from lass.hub import published_models
from lass.likelihood import AdditiveLikelihood
from lass.separation import Separator

PRETRAINED = Path("pretrained")  # searched for separators if none is named
MOST_SOURCES = 4  # offered where one prior is for any number of sources
LARGEST_DRAWING = 64  # pixels: images with a longer side are not drawn by hand


@dataclass(frozen=True)
class Model:
    """A loaded separator."""

    name: str
    separator: Separator

    @property
    def is_audio(self) -> bool:
        """Whether it separates songs; otherwise, images."""
        return isinstance(self.separator.codec, AudioCodec)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of its images, (channels, height, width)."""
        assert isinstance(self.separator.codec, ImageCodec)
        return self.separator.codec.image_shape

    @property
    def num_positions(self) -> int:
        """Number of codes of one of its images."""
        assert isinstance(self.separator.codec, ImageCodec)
        return math.prod(self.separator.codec.grid)

    @property
    def can_be_drawn(self) -> bool:
        """Whether its mixtures can be drawn: small grey images, as those of MNIST."""
        return not self.is_audio and self.image_shape[0] == 1 and max(self.image_shape[1:]) <= LARGEST_DRAWING

    @cached_property
    def numbers_of_sources(self) -> list[int]:
        """The numbers of sources that it can separate: those from 2 to `MOST_SOURCES`, or its own only."""
        numbers = {self.separator.num_sources}
        for number in range(2, MOST_SOURCES + 1):
            try:
                self.separator.with_num_sources(number)
            except LassError:
                continue
            numbers.add(number)
        return sorted(numbers)

    @property
    def can_count_sources(self) -> bool:
        """Whether it can determine the number of sources; see `lass.separation.num_sources_probabilities`."""
        is_additive = isinstance(self.separator.likelihood, AdditiveLikelihood)
        return not self.is_audio and is_additive and len(self.numbers_of_sources) > 1

    @property
    def num_classes(self) -> int:
        """Number of classes that can be given for each source; 0 for separators without classes, and for songs."""
        numbers = [getattr(prior, "num_classes", 0) for prior in self.separator.priors]
        return 0 if self.is_audio else min(numbers)


def load_models(folders: Sequence[str], device: str = "cpu") -> list[Model]:
    """Load the separators of the page.

    Args:
        folders: Separators, see `lass.hub.folder_of`; if empty, those in `pretrained/`, otherwise the published ones.
        device: Device of the separations.

    Raises:
        LassError: if there are none, one cannot be loaded, is neither for images nor for songs, or the device cannot be
            used.
    """
    found = list(folders) or [str(path.parent) for path in sorted(PRETRAINED.glob("*/separator.json"))]
    found = found or [model.name for model in published_models()]
    models = []
    for folder in dict.fromkeys(found):
        separator = load_separator(folder, device)
        if not isinstance(separator.codec, AudioCodec | ImageCodec):
            raise LassError(f"The separator in {folder} is neither for images nor for audio files.")
        models.append(Model(folder, separator))
    return models
