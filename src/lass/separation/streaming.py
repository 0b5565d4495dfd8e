"""Long signals: separated window by window, each of which continues the codes of the one before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.codecs import AudioCodec
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
    """Separate a signal of any length, piece by piece, in memory that does not grow with it.

    A window has `window` code positions. Of these the first `context` are the last ones of the window before, decided
    already: the priors read them as their past. The candidate that is selected at the end of a window is the one that
    the next goes on with. The signal is encoded, and what was decided is decoded and refined, with a margin to each
    side, so that neither has seams: pieces that follow each other are what refining all latents at once gives.

    Args:
        read: gives `length` samples of the mixture from `start` on, (channels, length); behind the end it gives
            silence. Channels are separated independently of each other.
        num_samples: length of the mixture.
        separator: for audio, with a refinement that works locally.
        window: code positions in a window, at most what the priors were made for.
        context: how many of them are carried over, fewer than `window`.
        seed: of all randomness; each window has its own.
        progress: goes through the positions of each window, see `separate_codes`.

    Yields:
        (sources, channels, samples) of the pieces in order, together `num_samples` long.

    Raises:
        LassError: if the codec is not for audio, the refinement needs the whole signal, the signal is shorter than a
            code, or window and context do not fit.
    """
    codec = audio_codec_of(separator)
    refinement = separator.refinement
    if not isinstance(refinement, LocalRefinement):
        raise LassError(
            f"This separator refines with {type(refinement).__name__}, which needs the whole signal: make it "
            "with the refinement lass.separation.WienerFilter or lass.separation.NoRefinement."
        )
    hop = codec.hop
    margin = codec.margin + -(-refinement.reach // hop)
    step = math.lcm(refinement.step, hop) // hop
    if num_samples < hop:
        raise LassError(
            f"The signal has {num_samples} samples, fewer than one code stands for: expected {hop} or more."
        )
    if not 0 <= context < window:
        raise LassError(f"The context must be 0…{window - 1} code positions, fewer than the window, not {context}.")
    num_positions = -(-num_samples // hop)
    codes: Tensor | None = None
    latents: Tensor | None = None  # (channels, sources, time) and (…, dim, time), decided, from position `first` on
    first = decoded = 0
    for number, start in enumerate(_starts(num_positions, window, context)):
        stop = min(start + window - (context if start else 0), num_positions)
        past = None if codes is None else codes[..., max(0, start - context) - first :]
        fresh = _separate_window(read, separator, start, stop, num_positions, past, seed, number, progress)
        if codes is None or latents is None:
            codes, latents = fresh
        else:
            codes, latents = torch.cat([codes, fresh[0]], -1), torch.cat([latents, fresh[1]], -1)
        ready = stop if stop == num_positions else max(decoded, stop - margin)  # what comes later no longer changes it
        if ready > decoded:
            since = max(first, (decoded - margin) // step * step)
            mixture = read(since * hop, (stop - since) * hop)[:, None].to(separator.device)
            with full_precision(separator.device):
                signals = refinement.refine(latents[..., since - first :], mixture, codec)[:, :, 0]
            piece = signals[..., (decoded - since) * hop : (ready - since) * hop]
            yield piece[..., : num_samples - decoded * hop].transpose(0, 1)
        keep = max(first, min(ready - margin, stop - context) // step * step)
        codes, latents, first, decoded = codes[..., keep - first :], latents[..., keep - first :], keep, ready


def audio_codec_of(separator: Separator) -> AudioCodec:
    """The codec of a separator for audio; raises LassError for any other."""
    codec = separator.codec
    if not isinstance(codec, AudioCodec):
        raise LassError(f"Only audio is separated as a stream, but the codec is a {type(codec).__name__}.")
    return codec


def num_windows(num_samples: int, hop: int, window: int, context: int) -> int:
    """How many windows `separate_stream` goes through."""
    return len(_starts(-(-num_samples // hop), window, context))


def _starts(num_positions: int, window: int, context: int) -> list[int]:
    """The first undecided position of each window."""
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
    # How candidates sound also depends on the codes before them, where some are carried over.
    lead = 0 if past is None else min(before, past.shape[-1])
    heard = candidates.codes
    if past is not None and lead:
        before_it = past[:, None, :, -lead:].expand(-1, heard.shape[1], -1, -1)
        heard = torch.cat([before_it, heard], -1)
    target = mixture[..., (before - lead) * codec.hop : (before + stop - start) * codec.hop]
    whole = replace(candidates, codes=heard)
    with full_precision(separator.device):
        chosen = separator.selection.select(whole, target, codec, (heard.shape[-1],))
        exchangeable = separator.exchangeable(None, len(mixture))
        return separator.codes_and_latents(candidates, chosen, (stop - start,), exchangeable)
