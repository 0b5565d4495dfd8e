"""What a signal is: images of one shape, or audio at one sample rate."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class HasImageShape(Protocol):
    """A codec or data module of images."""

    image_shape: tuple[int, ...]  # (channels, height, width)


@runtime_checkable
class HasSampleRate(Protocol):
    """A codec or data module of audio."""

    sample_rate: int  # in Hz
