"""Codec of power spectrograms: bands of a few frames are quantised; the powers of sources add up in a mixture."""

# K codes per band, G bands, d values of a band in a block

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import Artifact, register
from lass.codecs.vq_codec import MAX_CODES
from lass.errors import LassError, check_number, check_sizes

GRIFFIN_LIM_STEPS = 32
MAX_WINDOW = 2**14  # limit of a file: the filters of this window and 1,024 mel bands have 34 MB


@register
class SpectrogramCodec(Artifact):
    """Codes of the power spectrogram of mono audio, without its phases.

    The powers of an STFT are averaged to mel bands, and `num_frames` successive frames form a block. Each of
    `num_bands` groups of adjacent mel bands of a block has one code, from the lowest group to the highest, with a
    codebook of its own: group g has the codes g K … (g + 1) K − 1. The latents of a group are log(power + floor) of
    its mel bands and frames. As powers add up, the latents of a mixture follow from those of its sources, see
    `LogSumLikelihood`.

    Sources are recovered with masks from the powers that `power` decodes, see `lass.separation.WienerFilter`. `decode`
    estimates phases from the powers alone (Griffin and Lim), for listening.

    Args:
        sample_rate: Sample rate of the signals in Hz.
        codes_per_band: Codes K of each group.
        num_bands: Groups G of mel bands.
        num_mels: Mel bands, a multiple of `num_bands`.
        num_frames: Frames of a block.
        window: Length of the Hann window of the STFT in samples, a multiple of 4; the hop of its frames is window / 4.
        floor: Power that is added before the logarithm. A sine of amplitude a has the power (a · window / 4)².

    Raises:
        LassError: if a setting is out of range.

    Source: our own. Powers of sources in one codebook, with a model of their sum: Roweis 2000, "One microphone source
    separation". Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform".
    """

    kind = "codec"
    signal_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    codebook: Tensor  # (G K, d)
    filters: Tensor  # (mel bands, frequencies), rows sum to 1
    spread: Tensor  # (frequencies, mel bands), rows sum to 1

    def __init__(
        self,
        sample_rate: int = 22050,
        codes_per_band: int = 512,
        num_bands: int = 4,
        num_mels: int = 64,
        num_frames: int = 4,
        window: int = 1024,
        floor: float = 0.1,
    ) -> None:
        super().__init__()
        self.config = {
            "sample_rate": sample_rate,
            "codes_per_band": codes_per_band,
            "num_bands": num_bands,
            "num_mels": num_mels,
            "num_frames": num_frames,
            "window": window,
            "floor": floor,
        }
        check_sizes(2**20, sample_rate=sample_rate)
        check_sizes(MAX_WINDOW, window=window)
        check_sizes(2**10, num_bands=num_bands, num_mels=num_mels, num_frames=num_frames)
        check_sizes(MAX_CODES // num_bands, codes_per_band=codes_per_band)
        check_number("floor", floor, above=0)
        if window % 4:
            raise LassError(f"window must be a multiple of 4 samples, not {window}.")
        if num_mels % num_bands:
            raise LassError(f"num_mels must be a multiple of num_bands = {num_bands}, not {num_mels}.")
        if window // 4 * num_frames % num_bands:
            raise LassError(
                f"A block has {window // 4 * num_frames} samples (window / 4 · num_frames): expected a multiple of "
                f"num_bands = {num_bands}."
            )
        self.sample_rate, self.num_codes = sample_rate, codes_per_band * num_bands
        self.codes_per_band, self.block, self.num_frames = codes_per_band, num_bands, num_frames
        self.window, self.floor = window, floor
        self.hop = window // 4 * num_frames // num_bands
        self.margin = num_bands * math.ceil(window / 2 / (self.hop * num_bands))
        with torch.device("cpu"):  # although a codec that is loaded is built without memory
            filters = mel_filters(window // 2 + 1, num_mels, sample_rate)
        if not filters.sum(1).gt(0).all():
            raise LassError(
                f"num_mels = {num_mels} is too large for window = {window}: some mel bands would have no frequency."
            )
        filters[0, 0] = filters[-1, -1] = 1.0  # the triangles are 0 at frequency 0 and at half of the sample rate
        self.register_buffer("filters", filters / filters.sum(1, keepdim=True), persistent=False)
        self.register_buffer("spread", (filters / filters.sum(0)).T.contiguous(), persistent=False)
        dim = num_mels // num_bands * num_frames
        self.register_buffer("codebook", torch.zeros(self.num_codes, dim))

    def encode_latents(self, signal: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch dim positions"]:
        """Log powers of each group of mel bands in each block.

        Signals are zero-padded to a whole number of blocks.

        Raises:
            LassError: if the signal has several channels or fewer than `hop` samples.
        """
        if signal.shape[1] != 1 or signal.shape[2] < self.hop:
            raise LassError(
                f"This codec is for mono signals of at least {self.hop} samples, but got {signal.shape[1]} channels of "
                f"{signal.shape[2]} samples."
            )
        padded = F.pad(signal[:, 0], (0, -signal.shape[2] % (self.hop * self.block)))
        power = self.spectrum(padded).abs().square()[..., :-1]  # the last frame is centred on the end
        latents = (self.filters @ power + self.floor).log()  # (batch, mel bands, frames)
        latents = latents.unflatten(1, (self.block, -1)).unflatten(-1, (-1, self.num_frames))
        return latents.permute(0, 2, 4, 3, 1).flatten(1, 2).flatten(2)  # (batch, (mel, frame), (block, group))

    def encode(self, signal: Float[Tensor, "batch channels samples"]) -> Int[Tensor, "batch positions"]:
        """Encode a signal into codes; raises the errors of `encode_latents`."""
        return self.quantize(self.encode_latents(signal))

    def quantize(self, latents: Float[Tensor, "batch dim positions"]) -> Int[Tensor, "batch positions"]:
        """Code with the nearest codebook vector at each position."""
        groups = latents.float().unflatten(2, (-1, self.block)).permute(3, 0, 2, 1)  # (G, batch, blocks, d)
        with torch.autocast(latents.device.type, enabled=False):
            codes = [
                self._nearest(vectors, codebook) + number * self.codes_per_band
                for number, (vectors, codebook) in enumerate(zip(groups, self.codebook.chunk(self.block), strict=True))
            ]
        return torch.stack(codes, -1).flatten(1)

    @staticmethod
    def _nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
        return (vectors @ codebook.T - codebook.square().sum(1) / 2).argmax(-1)

    def embed(self, codes: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch dim positions"]:
        """Codebook vectors of the codes."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def power(self, latents: Float[Tensor, "batch dim positions"]) -> Float[Tensor, "batch frequencies frames"]:
        """Decode latents into the powers of an STFT, see `spectrum`; without the frame that is centred on the end."""
        values = latents.unflatten(2, (-1, self.block)).unflatten(1, (-1, self.num_frames))
        mels = values.permute(0, 4, 1, 3, 2).flatten(3).flatten(1, 2)  # (batch, mel bands, frames)
        return self.spread @ (mels.exp() - self.floor).clamp(min=0)

    def decode_latents(self, latents: Float[Tensor, "batch dim positions"]) -> Float[Tensor, "batch 1 samples"]:
        """Decode latents into a signal, with phases that are estimated from the powers alone."""
        magnitudes = F.pad(self.power(latents), (0, 1), mode="replicate").sqrt()
        hop, window = self.window // 4, torch.hann_window(self.window, device=magnitudes.device)
        length = hop * (magnitudes.shape[-1] - 1)
        spectra = magnitudes.to(torch.complex64)
        for _ in range(GRIFFIN_LIM_STEPS):
            rebuilt = self.spectrum(torch.istft(spectra, self.window, hop, window=window, length=length))
            spectra = magnitudes * rebuilt / rebuilt.abs().clamp(min=1e-8)
        return torch.istft(spectra, self.window, hop, window=window, length=length)[:, None]

    def decode(self, codes: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch 1 samples"]:
        """Decode codes into a signal; see `decode_latents`."""
        return self.decode_latents(self.embed(codes))

    def spectrum(self, signal: Float[Tensor, "batch samples"]) -> Tensor:
        """STFT, (batch, frequencies, frames), with a frame at every multiple of window / 4 samples."""
        return torch.stft(
            signal,
            self.window,
            self.window // 4,
            window=torch.hann_window(self.window, device=signal.device),
            pad_mode="constant",
            return_complex=True,
        )


def mel_filters(num_frequencies: int, num_mels: int, sample_rate: int) -> Float[Tensor, "mels frequencies"]:
    """Triangles with a height of 1 whose corners are equally spaced on the mel scale from 0 to half of the sample rate.

    Source: mel = 2595 log₁₀(1 + f / 700), O'Shaughnessy 1987.
    """
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, highest, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, sample_rate / 2, num_frequencies, dtype=torch.float64)
    rising = (frequencies - corners[:-2, None]) / corners.diff()[:-1, None]
    falling = (corners[2:, None] - frequencies) / corners.diff()[1:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()
