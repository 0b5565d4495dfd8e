"""Signal to codes and back."""

from pathlib import Path

from lass.artifacts import load_artifact
from lass.codecs.image_vqvae import ImageVQVAE
from lass.codecs.protocol import Codec
from lass.codecs.quantizer import VectorQuantizer

__all__ = ["Codec", "ImageVQVAE", "VectorQuantizer", "load_codec"]


def load_codec(folder: str | Path) -> Codec:
    """The codec saved in a folder, whatever its class; see `lass.artifacts.load_artifact` for errors."""
    return load_artifact(folder, "codec")
