"""Display of signals in loggers and figures: images directly, audio as players and spectrograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from pytorch_lightning import Trainer
from torch import Tensor

from lass.data.signals import HasImageShape, HasSampleRate
from lass.report.media import log_audio, log_images
from lass.report.spectrograms import spectrograms


@runtime_checkable
class Display(Protocol):
    """Interface for displaying signals of one type, of shape (batch, channels, *space)."""

    num_examples: ClassVar[int]  # items to log per set of examples

    def pictures(self, signals: Tensor) -> Tensor:
        """Convert signals to images of shape (batch, channels, height, width) in [0, 1]."""
        ...

    def residual(self, difference: Tensor) -> Tensor:
        """Convert the difference of two signals to a signal that can be displayed."""
        ...

    def log(self, trainer: Trainer, key: str, columns: Mapping[str, Tensor], captions: Sequence[str] | None) -> None:
        """Log items to the trainer's loggers; `columns` maps names to the signals of all items."""
        ...


class ImageDisplay:
    """Display of images in [0, 1]."""

    num_examples: ClassVar[int] = 12

    def pictures(self, signals: Tensor) -> Tensor:
        """Return the images unchanged."""
        return signals

    def residual(self, difference: Tensor) -> Tensor:
        """Return the absolute difference."""
        return difference.abs()

    def log(self, trainer: Trainer, key: str, columns: Mapping[str, Tensor], captions: Sequence[str] | None) -> None:
        """Log one strip of images per item."""
        log_images(trainer, key, columns, captions)


class AudioDisplay:
    """Display of mono audio in [-1, 1].

    Args:
        sample_rate: Sample rate in Hz.
    """

    num_examples: ClassVar[int] = 4

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def pictures(self, signals: Tensor) -> Tensor:
        """Return the spectrograms in colour; see `spectrograms`."""
        return spectrograms(signals)

    def residual(self, difference: Tensor) -> Tensor:
        """Return the difference unchanged, because a spectrogram shows magnitudes in any case."""
        return difference

    def log(self, trainer: Trainer, key: str, columns: Mapping[str, Tensor], captions: Sequence[str] | None) -> None:
        """Log one player per item and name, and one strip of spectrograms per item."""
        log_audio(trainer, key, columns, self.sample_rate, captions)
        pictures = {name: self.pictures(signals) for name, signals in columns.items()}
        log_images(trainer, f"{key}_spectrograms", pictures, captions)


def display_of(part: object) -> Display | None:
    """Return the display for the signals of a codec or data module.

    AudioDisplay if it has a `sample_rate`, ImageDisplay if it has an `image_shape`, otherwise None.
    """
    if isinstance(part, HasSampleRate):
        return AudioDisplay(part.sample_rate)
    return ImageDisplay() if isinstance(part, HasImageShape) else None
