"""Separation of audio of any length: overlapping windows of codes, each conditioned on the codes of the previous
window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.codecs import AudioCodec, block_of
from lass.devices.precision import full_precision
from lass.errors import LassError
from lass.separation.algorithm import Progress
from lass.separation.refinement import LocalRefinement
from lass.separation.separator import Separator

Read = Callable[[int, int], Float[Tensor, "channels samples"]]


def separate_stream(
    read: Read,
    num_samples: int,
    separator: Separator,
    *,
    window: int,
    context: int,
    seed: int = 0,
    progress: Progress = iter,
) -> Iterator[Float[Tensor, "sources channels samples"]]:
    """Separate a signal of any length window by window, with memory that does not grow with its length.

    A window has `window` code positions. Its first `context` positions are the last ones of the previous window; their
    codes are fixed and are the past on which the priors are conditioned. One candidate is selected at the end of each
    window, and the next window continues it. Encoding, decoding and refinement use a margin to each side that covers
    their receptive fields. The concatenated pieces therefore equal the refinement of all latents at once, without
    seams.

    Args:
        read: Function (start, length) -> mixture, (channels, length); zeros beyond the end. Channels are separated
            independently of each other.
        num_samples: Length of the mixture in samples.
        separator: Separator with an audio codec and a local refinement (one that has `reach` and `step`).
        window: Code positions per window, at most the priors' `num_positions`; whole blocks of a `BlockCodec`.
        context: Code positions carried over from the previous window, fewer than `window`; whole blocks as well.
        seed: Seed of all randomness; each window has its own random stream.
        progress: Wrapper of the loop over the positions of a window, see `separate_codes`.

    Yields:
        Consecutive pieces, (sources, channels, samples), `num_samples` samples in total.

    Raises:
        LassError: if the codec is not for audio, the refinement needs the whole signal, the signal is shorter than one
            code, or window and context do not fit.
    """
    codec = audio_codec_of(separator)
    refinement = separator.refinement
    if not isinstance(refinement, LocalRefinement):
        raise LassError(
            f"This separator refines with {type(refinement).__name__}, which needs the whole signal: make it "
            "with the refinement lass.separation.WienerFilter or lass.separation.NoRefinement."
        )
    if num_samples < codec.hop:
        raise LassError(
            f"The signal has {num_samples} samples, fewer than one code stands for: expected {codec.hop} or more."
        )
    if not 0 <= context < window:
        raise LassError(f"The context must be 0…{window - 1} code positions, fewer than the window, not {context}.")
    if window % (block := block_of(codec)) or context % block:
        raise LassError(f"Window and context must be multiples of {block} code positions, not {window} and {context}.")
    num_positions = _num_positions(num_samples, codec)
    decoder = _Decoder(read, num_samples, refinement, codec, separator)
    past: Tensor | None = None  # codes of the last `context` positions, (channels, sources, past)
    for number, start in enumerate(_starts(num_positions, window, context)):
        stop = min(start + window - (context if start else 0), num_positions)
        codes, latents = _separate_window(read, separator, start, stop, num_positions, past, seed, number, progress)
        past = codes if past is None else torch.cat([past, codes], -1)
        past = past[..., max(0, past.shape[-1] - context) :]
        yield from decoder.add(latents, stop)


class _Decoder:
    """Decode and refine latents piece by piece; a position is decoded as soon as its receptive field is complete.

    Args:
        read: see `separate_stream`.
        num_samples: Length of the mixture in samples.
        refinement: Local refinement.
        codec: Audio codec.
        separator: Separator with the device and the mixing weights.
    """

    def __init__(
        self, read: Read, num_samples: int, refinement: LocalRefinement, codec: AudioCodec, separator: Separator
    ) -> None:
        self.read, self.num_samples, self.device = read, num_samples, separator.device
        self.mixing_weights = separator.mixing_weights
        self.refinement, self.codec = refinement, codec
        self.num_positions, block = _num_positions(num_samples, codec), block_of(codec)
        reach = -(-refinement.reach // (block * codec.hop)) * block
        self.margin = codec.margin + reach  # receptive field in positions, to each side
        self.step = math.lcm(refinement.step, block * codec.hop) // codec.hop  # pieces start at multiples of it
        self.latents: Tensor | None = None  # (channels, sources, dim, time), from position `first` on
        self.first = self.decoded = 0

    def add(
        self, latents: Float[Tensor, "channels sources dim time"], stop: int
    ) -> Iterator[Float[Tensor, "sources channels samples"]]:
        """Take in the latents up to position `stop`, and yield the piece that no later latents change, if any."""
        self.latents = latents if self.latents is None else torch.cat([self.latents, latents], -1)
        hop, first, decoded = self.codec.hop, self.first, self.decoded
        ready = stop if stop == self.num_positions else max(decoded, stop - self.margin)
        if ready > decoded:
            mixture = self.read(first * hop, (stop - first) * hop)[:, None].to(self.device)
            with full_precision(self.device):
                signals = self.refinement.refine(self.latents, mixture, self.codec, self.mixing_weights)[:, :, 0]
            piece = signals[..., (decoded - first) * hop : (ready - first) * hop]
            yield piece[..., : self.num_samples - decoded * hop].transpose(0, 1)
        self.first, self.decoded = max(first, (ready - self.margin) // self.step * self.step), ready
        self.latents = self.latents[..., self.first - first :]


def audio_codec_of(separator: Separator) -> AudioCodec:
    """The codec of a separator for audio; raises LassError for any other."""
    codec = separator.codec
    if not isinstance(codec, AudioCodec):
        raise LassError(f"Only audio is separated as a stream, but the codec is a {type(codec).__name__}.")
    return codec


def num_windows(num_samples: int, codec: AudioCodec, window: int, context: int) -> int:
    """Number of windows of `separate_stream`."""
    return len(_starts(_num_positions(num_samples, codec), window, context))


def _num_positions(num_samples: int, codec: AudioCodec) -> int:
    """Number of codes of whole blocks that cover the samples."""
    block = block_of(codec)
    return -(-num_samples // (codec.hop * block)) * block


def _starts(num_positions: int, window: int, context: int) -> list[int]:
    """First new code position of each window."""
    return [0, *range(window, num_positions, window - context)]


@torch.no_grad()
def _separate_window(
    read: Read,
    separator: Separator,
    start: int,
    stop: int,
    num_positions: int,
    past: Int[Tensor, "channels sources past"] | None,
    seed: int,
    number: int,
    progress: Progress,
) -> tuple[Int[Tensor, "channels sources time"], Float[Tensor, "channels sources dim time"]]:
    codec = audio_codec_of(separator)
    before = min(start, codec.margin)
    after = min(num_positions - stop, codec.margin)
    signal = read((start - before) * codec.hop, (stop + after - start + before) * codec.hop)
    mixture = separator.checked(signal[:, None])
    own = slice(before, before + stop - start)
    mixture_codes, mixture_latents = separator.encode(mixture)
    candidates = separator.candidates(
        mixture_codes[:, own],
        None if mixture_latents is None else mixture_latents[..., own],
        past=past,
        seed=seed,
        indices=[number * len(mixture) + channel for channel in range(len(mixture))],
        progress=progress,
    )
    # The decoder's receptive field includes the codes before the window: decode candidates with those carried over.
    lead = 0 if past is None else min(before, past.shape[-1])
    heard = candidates.codes
    if past is not None and lead:
        before_it = past[:, None, :, -lead:].expand(-1, heard.shape[1], -1, -1)
        heard = torch.cat([before_it, heard], -1)
    target = mixture[..., (before - lead) * codec.hop : (before + stop - start) * codec.hop]
    whole = replace(candidates, codes=heard)
    with full_precision(separator.device):
        chosen = separator.selection.select(whole, target, codec, (heard.shape[-1],), separator.mixing_weights)
        groups = separator.exchangeable(None, len(mixture))
        codes, latents, _ = separator.codes_and_latents(candidates, chosen, (stop - start,), groups)
        return codes, latents
