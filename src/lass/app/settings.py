"""What the page lets its user choose for a separation, checked."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from typing import Any

from lass.app.models import Model
from lass.errors import LassError, check_number
from lass.samplers import Ancestral, BeamSearch, Greedy, Sampler, SequentialMonteCarlo, TopK, TopP
from lass.separation import Separator

SAMPLERS: dict[str, type] = {
    kind.__name__: kind for kind in (SequentialMonteCarlo, TopK, TopP, Ancestral, BeamSearch, Greedy)
}
MAX_CANDIDATES = 4096
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """Limits on what is separated.

    Args:
        megabytes: Size of an uploaded file, in 10⁶ bytes.
        seconds: Duration of a song.
        pixels: Number of pixels of an image file.
    """

    megabytes: int = 50
    seconds: float = 300.0
    pixels: int = 20_000_000

    def __post_init__(self) -> None:
        check_number("max_megabytes", self.megabytes, at_least=1, whole=True)
        check_number("max_seconds", self.seconds, above=0)
        check_number("max_pixels", self.pixels, at_least=1, whole=True)


@dataclass(frozen=True)
class Settings:
    """Settings of one separation; a value of None is that of the separator.

    Args:
        num_sources: Number of sources; 0 to determine it.
        classes: Class of each source, for priors with classes.
        sampler: Name of a sampler in `SAMPLERS`.
        num_candidates: Number of candidates, except for `Greedy`.
        likelihood_weight: Exponent λ of the likelihood.
        seed: Seed of all randomness.
    """

    num_sources: int | None = None
    classes: tuple[int, ...] | None = None
    sampler: str | None = None
    num_candidates: int | None = None
    likelihood_weight: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_sources is not None:
            check_number("The number of sources", self.num_sources, at_least=0, at_most=64, whole=True)
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise LassError(f"There is no sampler {self.sampler!r:.80}: expected one of {', '.join(SAMPLERS)}.")
        if self.num_candidates is not None:
            check_number("Candidates", self.num_candidates, at_least=1, at_most=MAX_CANDIDATES, whole=True)
        if self.likelihood_weight is not None:
            check_number("The likelihood weight", self.likelihood_weight, at_least=0)
        check_number("The seed", self.seed, at_least=0, at_most=MAX_SEED, whole=True)

    def separator_for(self, model: Model, num_sources: int | None = None) -> Separator:
        """A separator with these settings, which shares the networks of the model's.

        Args:
            model: Model of the separation.
            num_sources: Number of sources where `self.num_sources` is 0.

        Raises:
            LassError: if the model does not serve this number of sources.
        """
        number = self.num_sources or num_sources
        separator = model.separator if number is None else model.separator.with_num_sources(number)
        separator = copy.copy(separator)
        separator.sampler = self._sampler(separator.sampler)
        if self.likelihood_weight is not None:
            separator.likelihood_weight = self.likelihood_weight
        if self.classes is not None and len(self.classes) != separator.num_sources:
            raise LassError(
                f"Expected one class for each of {separator.num_sources} sources, got {len(self.classes)}: give as "
                "many, or none."
            )
        return separator

    def _sampler(self, own: Sampler) -> Sampler:
        """The sampler with this name, with the separator's own settings where it has the same one."""
        kind = type(own) if self.sampler is None else SAMPLERS[self.sampler]
        sampler: Any = own if type(own) is kind else kind()
        if self.num_candidates is None or isinstance(sampler, Greedy):
            return sampler
        return replace(sampler, num_candidates=self.num_candidates)


def parse_classes(text: str, num_classes: int) -> tuple[int, ...] | None:
    """Classes of the sources as typed, for example `3 8` or `3, 8`; None for empty text.

    Raises:
        LassError: if one of them is no class.
    """
    words = re.split(r"[\s,;]+", text.strip())
    if words == [""]:
        return None
    if not all(re.fullmatch(r"\d{1,9}", word, re.ASCII) and int(word) < num_classes for word in words):
        raise LassError(f"The classes must be numbers from 0 to {num_classes - 1}, not {text!r:.80}: write e.g. 3 8.")
    return tuple(map(int, words))


def sampler_name(sampler: Sampler) -> str | None:
    """Name of a sampler in `SAMPLERS`, or None for one of another package."""
    return next((name for name, kind in SAMPLERS.items() if type(sampler) is kind), None)
