"""What all our own codecs share: latents are quantised by a codebook."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import Artifact
from lass.codecs.quantizer import VectorQuantizer

MAX_CODES = 2**21 - 1  # a triple of codes is one 63-bit number when it is counted


class VQCodec(Artifact):
    """Base of codecs with a codebook; subclasses set the attributes and define both directions up to the latents."""

    kind = "codec"
    num_codes: int
    quantizer: VectorQuantizer

    @property
    def codebook(self) -> Float[Tensor, "num_codes dim"]:
        """The vectors that codes stand for."""
        return self.quantizer.codebook

    def encode_latents(self, signal: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch dim *grid"]:
        """Unquantised latents."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_latents()")

    def decode_latents(self, latents: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Signal of latents."""
        raise NotImplementedError(f"{type(self).__name__} must define decode_latents()")

    def encode(self, signal: Float[Tensor, "batch channels *space"]) -> Int[Tensor, "batch *grid"]:
        """Codes of a signal; errors as in `encode_latents`."""
        return self.quantizer.lookup(self.encode_latents(signal))

    def embed(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Codebook vectors of the codes, in the data type of the networks around the codebook."""
        return self.quantizer.embed(codes).to(next(self.parameters()).dtype)

    def decode(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Signal of codes."""
        return self.decode_latents(self.embed(codes))
