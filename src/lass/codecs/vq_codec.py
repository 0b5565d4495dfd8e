"""Base class of codecs that quantise latents with a codebook."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import Artifact
from lass.codecs.quantizer import VectorQuantizer

MAX_CODES = 2**21 - 1  # the likelihood packs a triple of codes into one 63-bit integer


class VQCodec(Artifact):
    """Base class of codecs with a codebook.

    Subclasses set `num_codes` and `quantizer` and define `encode_latents` and `decode_latents`.
    """

    kind = "codec"
    num_codes: int
    quantizer: VectorQuantizer

    @property
    def codebook(self) -> Float[Tensor, "num_codes dim"]:
        """Codebook vectors, (num_codes, dim)."""
        return self.quantizer.codebook

    def encode_latents(self, signal: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch dim *grid"]:
        """Encode a signal into unquantised latents."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_latents()")

    def decode_latents(self, latents: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Decode latents into a signal."""
        raise NotImplementedError(f"{type(self).__name__} must define decode_latents()")

    def encode(self, signal: Float[Tensor, "batch channels *space"]) -> Int[Tensor, "batch *grid"]:
        """Encode a signal into codes; raises the errors of `encode_latents`."""
        return self.quantizer.lookup(self.encode_latents(signal))

    def embed(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Codebook vectors of the codes, in the data type of the codec's parameters."""
        return self.quantizer.embed(codes).to(next(self.parameters()).dtype)

    def decode(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Decode codes into a signal."""
        return self.decode_latents(self.embed(codes))
