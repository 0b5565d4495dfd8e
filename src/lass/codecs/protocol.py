"""Interfaces of codecs: what every codec must have, and what some codecs have in addition."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """Signals to codes and back. No base class is needed.

    A published VQ model needs about twenty lines of adapter code to implement it. Shapes: `signal` (batch, channels,
    *space), `codes` (batch, *grid), `latents` (batch, dim, *grid).

    A codec for images also implements `ImageCodec`, one for audio `AudioCodec`, and one whose unquantised latents can
    be used by a likelihood `LatentCodec`.
    """

    num_codes: int

    def encode(self, signal: Float[Tensor, "batch channels *space"]) -> Int[Tensor, "batch *grid"]:
        """Encode a signal: index of the nearest codebook vector at each grid position."""
        ...

    def embed(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Codebook vectors of the codes; the starting point of refinement (Eq. 5, 6)."""
        ...

    def decode_latents(self, latents: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Decode latents, quantised or not, into a signal; differentiable, because refinement descends its gradient."""
        ...

    def decode(self, codes: Int[Tensor, "batch *grid"]) -> Float[Tensor, "batch channels *space"]:
        """Decode codes into a signal: `decode_latents(embed(codes))`."""
        ...


@runtime_checkable
class GridCodec(Codec, Protocol):
    """A codec whose codes have one fixed shape."""

    grid: tuple[int, ...]


@runtime_checkable
class ImageCodec(GridCodec, Protocol):
    """A codec for images of one size."""

    image_shape: tuple[int, ...]  #: (channels, height, width)


@runtime_checkable
class AudioCodec(Codec, Protocol):
    """A codec for mono audio of any length."""

    sample_rate: int  #: in Hz
    hop: int  #: samples per code
    margin: int  #: receptive field: code positions to each side that one code, or the sound of one code, depends on


@runtime_checkable
class BlockCodec(AudioCodec, Protocol):
    """An audio codec with several codes for the same samples, in a fixed order."""

    block: int  #: codes that stand together for block · hop samples


@runtime_checkable
class PowerCodec(BlockCodec, Protocol):
    """An audio codec of the powers of an STFT with a hop of window / 4, whose phases it does not know."""

    window: int  #: in samples
    floor: float  #: power that is added before the logarithm that gives the latents

    def power(self, latents: Float[Tensor, "batch dim positions"]) -> Float[Tensor, "batch frequencies frames"]:
        """Powers of the frames that are centred on every multiple of window / 4 samples, without that at the end."""
        ...


@runtime_checkable
class LatentCodec(Codec, Protocol):
    """A codec that gives its latents before they are quantised, for a likelihood of latents."""

    def encode_latents(self, signal: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch dim *grid"]:
        """The latents that `encode` quantises."""
        ...


@runtime_checkable
class CodebookCodec(Codec, Protocol):
    """A codec that gives its codebook; for a grid or audio codec without it, `codebook_of` embeds every code."""

    codebook: Tensor  #: (num_codes, dim)


@runtime_checkable
class HasSignalRange(Protocol):
    """A codec that was trained on signals of a known range; signals far outside are refused."""

    signal_range: tuple[float, float]  #: (low, high)
