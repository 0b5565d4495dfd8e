"""What the rest of the program asks of a codec, and nothing else."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """Signals to codes and back. Any published VQ model becomes one in about twenty lines.

    `signal` has shape (batch, channels, *space), `codes` (batch, *grid), `latents` (batch, dim, *grid).

    For a likelihood of latents a codec also has `encode_latents(signal) -> latents`, what `encode` quantises, and
    `codebook`, the (num_codes, dim) vectors (or `grid`, from which they are found). A codec for images has their
    `image_shape` and the `grid` of their codes; one for audio has `sample_rate`, `hop` and `margin`, see AudioCodec.
    `signal_range`, (low, high), lets signals of another range be refused.
    """

    num_codes: int

    def encode(self, signal: Float[Tensor, "batch channels *space"]) -> Int[Tensor, "batch *grid"]:
        """Codes of a signal: the nearest codebook vector at each position of the grid."""

    def embed(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Codebook vectors of the codes. Refinement starts from them (Eq. 5, 6)."""

    def decode_latents(self, latents: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Signal of (not necessarily quantised) latents; differentiable, because refinement descends through it."""

    def decode(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Signal of codes: `decode_latents(embed(codes))`."""
