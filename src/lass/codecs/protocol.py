"""Protocol of codecs: the interface that all other modules rely on."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """Protocol of codecs, which map signals to discrete codes and back.

    A published VQ model needs about twenty lines of adapter code to implement it. Shapes: `signal` (batch, channels,
    *space), `codes` (batch, *grid), `latents` (batch, dim, *grid).

    Optional attributes:

    - A likelihood of latents needs `encode_latents(signal) -> latents`, the latents that `encode` quantises, and
      `codebook`, the vectors (num_codes, dim); without `codebook`, the vectors are computed with `embed` and `grid`.
    - Image codecs have `image_shape` (channels, height, width) and the shape `grid` of their codes.
    - Audio codecs have `sample_rate`, `hop` and `margin`, see `AudioCodec`.
    - `signal_range`, (low, high), enables the check of signals in `check_range`.
    """

    num_codes: int

    def encode(self, signal: Float[Tensor, "batch channels *space"]) -> Int[Tensor, "batch *grid"]:
        """Encode a signal: index of the nearest codebook vector at each grid position."""

    def embed(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Codebook vectors of the codes; the starting point of refinement (Eq. 5, 6)."""

    def decode_latents(self, latents: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Decode latents, quantised or not, into a signal; differentiable, because refinement descends its gradient."""

    def decode(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Decode codes into a signal: `decode_latents(embed(codes))`."""
