"""How signals are shown: images as they are, audio as players and spectrograms."""

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
    """Signals here are (batch, channels, *space)."""

    num_examples: ClassVar[int]  # in a logged set

    def pictures(self, signals: Tensor) -> Tensor:
        """What to look at: (batch, channels, height, width) in [0, 1]."""
        ...

    def residual(self, difference: Tensor) -> Tensor:
        """The difference of two signals as a signal that can be shown."""
        ...

    def log(self, trainer: Trainer, key: str, columns: Mapping[str, Tensor], captions: Sequence[str] | None) -> None:
        """Show some items in whichever loggers there are; `columns` are their signals by name."""
        ...


class ImageDisplay:
    """Images in [0, 1]."""

    num_examples: ClassVar[int] = 12

    def pictures(self, signals: Tensor) -> Tensor:
        """The images."""
        return signals

    def residual(self, difference: Tensor) -> Tensor:
        """Its size."""
        return difference.abs()

    def log(self, trainer: Trainer, key: str, columns: Mapping[str, Tensor], captions: Sequence[str] | None) -> None:
        """Strips of images."""
        log_images(trainer, key, columns, captions)


class AudioDisplay:
    """Mono audio in [-1, 1].

    Args:
        sample_rate: in Hz.
    """

    num_examples: ClassVar[int] = 4

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def pictures(self, signals: Tensor) -> Tensor:
        """Spectrograms."""
        return spectrograms(signals)

    def residual(self, difference: Tensor) -> Tensor:
        """As it is: a spectrogram shows its size anyway."""
        return difference

    def log(self, trainer: Trainer, key: str, columns: Mapping[str, Tensor], captions: Sequence[str] | None) -> None:
        """Players, and strips of spectrograms."""
        log_audio(trainer, key, columns, self.sample_rate, captions)
        pictures = {name: self.pictures(signals) for name, signals in columns.items()}
        log_images(trainer, f"{key}_spectrograms", pictures, captions)


def display_of(codec: object) -> Display | None:
    """That of audio for codecs with a `sample_rate`, of images for those with an `image_shape`; None for others."""
    if isinstance(codec, HasSampleRate):
        return AudioDisplay(codec.sample_rate)
    return ImageDisplay() if isinstance(codec, HasImageShape) else None
