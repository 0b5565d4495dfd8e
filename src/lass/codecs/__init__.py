"""Codecs: encode signals into discrete codes and decode them; helpers for any codec."""

import warnings
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lass.artifacts import load_artifact
from lass.codecs.audio_codec import AudioVQCodec
from lass.codecs.audio_vqvae import AudioVQVAE
from lass.codecs.authors_vqvae import AuthorsVQVAE
from lass.codecs.image_codec import ImageVQCodec
from lass.codecs.image_vqvae import ImageVQVAE
from lass.codecs.jukebox import JukeboxVQVAE
from lass.codecs.protocol import (
    AudioCodec,
    BlockCodec,
    CodebookCodec,
    Codec,
    GridCodec,
    HasSignalRange,
    ImageCodec,
    LatentCodec,
    PowerCodec,
)
from lass.codecs.quantizer import VectorQuantizer
from lass.codecs.spectrogram import SpectrogramCodec
from lass.codecs.vq_codec import VQCodec
from lass.codecs.vqgan import VQGAN
from lass.errors import LassError

__all__ = [
    "VQGAN",
    "AudioCodec",
    "AudioVQCodec",
    "AudioVQVAE",
    "AuthorsVQVAE",
    "BlockCodec",
    "CodebookCodec",
    "Codec",
    "GridCodec",
    "HasSignalRange",
    "ImageCodec",
    "ImageVQCodec",
    "ImageVQVAE",
    "JukeboxVQVAE",
    "LatentCodec",
    "PowerCodec",
    "SpectrogramCodec",
    "VQCodec",
    "VectorQuantizer",
    "block_of",
    "check_range",
    "codebook_of",
    "load_codec",
    "pad_to_codes",
    "shape_codes",
]


def load_codec(folder: str | Path) -> Codec:
    """Load a codec of any registered class from a folder; raises the errors of `lass.artifacts.load_artifact`."""
    return cast(Codec, load_artifact(folder, "codec"))


@torch.no_grad()
def codebook_of(codec: Codec) -> Tensor | None:
    """Codebook vectors, (num_codes, dim); None for a codec that is no CodebookCodec, GridCodec or AudioCodec."""
    if isinstance(codec, CodebookCodec):
        return codec.codebook
    if not isinstance(codec, GridCodec | AudioCodec):
        return None
    num_dims = len(codec.grid) if isinstance(codec, GridCodec) else 1
    parameters = codec.parameters() if isinstance(codec, nn.Module) else iter(())
    device = next((parameter.device for parameter in parameters), None)
    return codec.embed(torch.arange(codec.num_codes, device=device).view(-1, *[1] * num_dims)).flatten(1)


def check_range(codec: Codec, signals: Tensor) -> None:
    """Check signals against the codec's `signal_range`, if it has one: [0, 1] for images, [-1, 1] for audio.

    Signals that exceed the range by over 1 % of its width, such as loud recordings, give a warning.

    Raises:
        LassError: if signals exceed it by over four times its width, such as images in 0…255 or 16-bit integer audio.
    """
    if not isinstance(codec, HasSignalRange) or not signals.numel():
        return
    low, high = codec.signal_range
    least, most = (bound.item() for bound in signals.aminmax())
    excess = max(low - least, most - high) / (high - low)
    if excess > 0.01:
        sentence = f"The signal has values from {least:.4g} to {most:.4g}, but this codec is for {low:g} to {high:g}"
        if excess > 4:
            raise LassError(f"{sentence}: scale the signal.")
        warnings.warn(f"{sentence}.", stacklevel=4)


def shape_codes(codec: Codec, codes: Tensor) -> Tensor:
    """Reshape codes (batch, time) for decoding: (batch, *grid) for codecs with a fixed grid, otherwise unchanged."""
    return codes.unflatten(1, codec.grid) if isinstance(codec, GridCodec) else codes


def pad_to_codes(codec: Codec, signals: Tensor) -> Tensor:
    """Zero-pad signals (batch, channels, *space) at the end to whole blocks of codes; unchanged without a hop."""
    if not isinstance(codec, AudioCodec):
        return signals
    return F.pad(signals, (0, -signals.shape[-1] % (codec.hop * block_of(codec))))


def block_of(codec: AudioCodec) -> int:
    """Number of codes that stand for the same samples; 1 for a codec that is no `BlockCodec`."""
    return codec.block if isinstance(codec, BlockCodec) else 1
