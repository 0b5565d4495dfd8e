"""Signal to codes and back."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lass.artifacts import load_artifact
from lass.codecs.image_vqvae import ImageVQVAE
from lass.codecs.protocol import Codec
from lass.codecs.quantizer import VectorQuantizer

__all__ = ["Codec", "ImageVQVAE", "VectorQuantizer", "codebook_of", "load_codec"]


def load_codec(folder: str | Path) -> Codec:
    """The codec saved in a folder, whatever its class; see `lass.artifacts.load_artifact` for errors."""
    return load_artifact(folder, "codec")


@torch.no_grad()
def codebook_of(codec: Codec) -> Tensor | None:
    """The codec's vectors, (num_codes, dim); None for a codec that does not say what grid its codes have."""
    if not hasattr(codec, "grid"):
        return None
    device = (
        next((parameter.device for parameter in codec.parameters()), None) if isinstance(codec, nn.Module) else None
    )
    return codec.embed(torch.arange(codec.num_codes, device=device).view(-1, *(1 for _ in codec.grid))).flatten(1)
