"""Signal to codes and back."""

import warnings
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lass.artifacts import load_artifact
from lass.codecs.audio_codec import AudioVQCodec
from lass.codecs.audio_vqvae import AudioVQVAE
from lass.codecs.image_codec import ImageVQCodec
from lass.codecs.image_vqvae import ImageVQVAE
from lass.codecs.jukebox import JukeboxVQVAE
from lass.codecs.protocol import AudioCodec, Codec, GridCodec, HasSignalRange, ImageCodec, LatentCodec
from lass.codecs.quantizer import VectorQuantizer
from lass.codecs.vq_codec import VQCodec
from lass.codecs.vqgan import VQGAN
from lass.errors import LassError

__all__ = [
    "VQGAN",
    "AudioCodec",
    "AudioVQCodec",
    "AudioVQVAE",
    "Codec",
    "GridCodec",
    "ImageCodec",
    "ImageVQCodec",
    "ImageVQVAE",
    "JukeboxVQVAE",
    "LatentCodec",
    "VQCodec",
    "VectorQuantizer",
    "check_range",
    "codebook_of",
    "load_codec",
    "pad_to_codes",
    "shape_codes",
]


def load_codec(folder: str | Path) -> Codec:
    """The codec saved in a folder, whatever its class; see `lass.artifacts.load_artifact` for errors."""
    return cast(Codec, load_artifact(folder, "codec"))


@torch.no_grad()
def codebook_of(codec: Codec) -> Tensor | None:
    """The codec's vectors, (num_codes, dim); None for a codec that is no GridCodec or AudioCodec."""
    if isinstance(codec, VQCodec):
        return codec.codebook
    if not isinstance(codec, GridCodec | AudioCodec):
        return None
    num_dims = len(codec.grid) if isinstance(codec, GridCodec) else 1
    parameters = codec.parameters() if isinstance(codec, nn.Module) else iter(())
    device = next((parameter.device for parameter in parameters), None)
    return codec.embed(torch.arange(codec.num_codes, device=device).view(-1, *[1] * num_dims)).flatten(1)


def check_range(codec: Codec, signals: Tensor) -> None:
    """Compare signals with the codec's `signal_range`, where it has one: [0, 1] for images, [-1, 1] for audio.

    Signals that leave the range by a few times its width, as loud recordings do, give a warning.

    Raises:
        LassError: for signals that leave it by more, such as images in 0…255 or audio in 16-bit integers.
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
    """(batch, time) as the codec decodes them: (batch, *grid) where it has a fixed grid."""
    return codes.unflatten(1, codec.grid) if isinstance(codec, GridCodec) else codes


def pad_to_codes(codec: Codec, signals: Tensor) -> Tensor:
    """Signals (batch, channels, *space), with silence up to a whole number of codes where the codec has a hop."""
    return F.pad(signals, (0, -signals.shape[-1] % codec.hop)) if isinstance(codec, AudioCodec) else signals
