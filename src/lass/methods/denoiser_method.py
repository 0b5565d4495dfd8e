"""What the methods that sample sources with denoisers have in common: the denoisers, weights, and random numbers."""

# M mixtures, S sources

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import fingerprint
from lass.data.module import MAX_SOURCES, check_sample_rate
from lass.data.signals import HasSampleRate
from lass.denoisers import Denoiser, load_denoiser
from lass.devices.precision import full_precision
from lass.errors import LassError, check_number
from lass.methods.chunks import overlap_add
from lass.methods.protocol import identity_of
from lass.methods.signals import checked_conditions, checked_mixtures, generators_of, weights_or_mean
from lass.samplers.generators import MixtureGenerators
from lass.separation.result import SeparationResult

AnyDenoiser = Denoiser | str | Path
StartName = Literal["mixture", "noise"]
SMALLEST_LEVEL = 1e-10  # of the noise, so that its square is not 0 in float32


def check_levels(sigma_min: float, sigma_max: float) -> None:
    """Raise LassError unless the last and the first noise level are positive and in this order."""
    check_number("sigma_min", sigma_min, at_least=SMALLEST_LEVEL)
    check_number("sigma_max", sigma_max, at_least=sigma_min)


class DenoiserMethod:
    """Base class of separation methods that sample sources with denoisers of single sources.

    A subclass defines `sample`, and names its settings in `own_settings`. Denoisers with a `sample_rate` are for audio;
    they may have a `shape`, whose last size is the number of samples that they are given at most. Denoisers that are
    modules are set to evaluation mode, and moved to the device of the run.

    Args:
        denoisers: One denoiser for all sources, or one per source; or the folders that they are saved in.
        num_sources: Number S of sources, if there is one denoiser for all of them; null for 2.
        mixing_weights: Weight of each source in the mixtures; null for their mean, 1/S each.
        start: What the noise of the first level is added to: "noise" for nothing else, "mixture" for equal sources that
            mix into the mixture. What many pixels have in common, as the brightness of a photograph, stays near its
            start, because the mean of their noise is small even at the first level.

    Raises:
        LassError: if a folder holds no denoiser, the number of denoisers or weights is not S, or `start` is unknown.
    """

    own_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        denoisers: AnyDenoiser | Sequence[AnyDenoiser],
        num_sources: int | None = None,
        mixing_weights: Sequence[float] | None = None,
        start: StartName = "noise",
    ) -> None:
        if start not in get_args(StartName):
            raise LassError(f"start must be 'mixture' or 'noise', not {start!r:.50}.")
        self.start = start
        given = list(denoisers) if isinstance(denoisers, Sequence) and not isinstance(denoisers, str) else [denoisers]
        if num_sources is None:
            num_sources = max(2, len(given))
        check_number("num_sources", num_sources, at_least=2, at_most=MAX_SOURCES, whole=True)
        if len(given) not in (1, num_sources):
            raise LassError(f"Expected one denoiser for all {num_sources} sources, or one for each, got {len(given)}.")
        weights_or_mean(mixing_weights, num_sources)
        folders = {Path(each).resolve(): each for each in given if isinstance(each, str | Path)}
        loaded = {path: load_denoiser(folder) for path, folder in folders.items()}  # one named twice is one denoiser
        models = [loaded[Path(each).resolve()] if isinstance(each, str | Path) else each for each in given]
        for model in models:
            if not isinstance(model, Denoiser):
                raise LassError(
                    f"Expected denoisers, or their folders, got a {type(model).__name__} without denoise()."
                )
            if isinstance(model, nn.Module):
                model.eval()
        self.denoisers: list[Denoiser] = models * num_sources if len(models) == 1 else models
        self.num_sources, self.mixing_weights = num_sources, mixing_weights

    def sample(
        self,
        mixtures: Float[Tensor, "M channels *space"],
        weights: Float[Tensor, " S"],
        conditions: Tensor | None,
        generators: MixtureGenerators,
    ) -> Float[Tensor, "M S channels *space"]:
        """Sample the sources of each mixture.

        Args:
            mixtures: Mixtures, or chunks of audio of the length that the denoisers are made for.
            weights: Mixing weight of each source.
            conditions: (M, S) classes, or None.
            generators: Random numbers of each mixture.
        """
        raise NotImplementedError(f"{type(self).__name__} must define sample()")

    def first_sources(
        self,
        mixtures: Float[Tensor, "M channels *space"],
        weights: Float[Tensor, " S"],
        sigma: float,
        generators: MixtureGenerators,
    ) -> Float[Tensor, "M S channels *space"]:
        """Draw sources with noise of standard deviation `sigma`; see `start`."""
        noise = sigma * generators.normal(len(weights), *mixtures.shape[1:])
        return noise if self.start == "noise" else mixtures.unsqueeze(1) / weights.sum() + noise

    def denoise(
        self, noisy: Float[Tensor, "M S channels *space"], sigma: float, conditions: Tensor | None
    ) -> Float[Tensor, "M S channels *space"]:
        """Denoise all sources of all mixtures at one noise level, in one batch for sources that share a denoiser."""
        clean = torch.empty_like(noisy)
        for denoiser in self._distinct:
            own = [index for index, each in enumerate(self.denoisers) if each is denoiser]
            batch = noisy[:, own].flatten(0, 1)
            classes = None if conditions is None else conditions[:, own].flatten()
            clean[:, own] = denoiser.denoise(batch, batch.new_full((len(batch),), sigma), classes).unflatten(
                0, (len(noisy), len(own))
            )
        return clean

    @torch.no_grad()
    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> SeparationResult:
        """Separate a batch of mixtures; see `lass.methods.SeparationMethod`.

        Audio that is longer than the `shape` of the denoisers is separated in chunks of that length, which overlap by
        half, see `overlap_add`.

        Args:
            mixtures: (M, channels, *space).
            conditions: (M, S) classes, for class-conditional denoisers.
            seed: Seed of the noise.
            indices: Index of each mixture, default 0…M-1; the noise is a function of (seed, index).

        Returns:
            Result with estimates (M, S, channels, *space).

        Raises:
            LassError: if the mixtures or the classes do not fit the denoisers, there is not one index for each mixture,
                or audio is longer than a chunk although sources share a denoiser, because their estimates could change
                places between chunks.
        """
        is_audio = isinstance(self.denoisers[0], HasSampleRate)
        shape = "(mixtures, 1, samples)" if is_audio else "(mixtures, channels, height, width)"
        mixtures = checked_mixtures(mixtures, 3 if is_audio else 4, shape)
        if conditions is not None:
            conditions = checked_conditions(conditions, len(mixtures), self.num_sources, mixtures.device)
        weights = mixtures.new_tensor(weights_or_mean(self.mixing_weights, self.num_sources))
        generators = generators_of(mixtures, seed, indices)

        def separate(chunks: Tensor) -> Tensor:
            return self.sample(chunks, weights, conditions, generators)

        with full_precision(mixtures.device):
            if not is_audio:
                return SeparationResult(separate(mixtures))
            num_samples = mixtures.shape[2]
            chunk = min((each.shape[-1] for each in self.denoisers if hasattr(each, "shape")), default=num_samples)
            if num_samples > chunk and len(self._distinct) < self.num_sources:
                raise LassError(
                    f"The mixtures have {num_samples} samples, but sources that share a denoiser are separated in one "
                    f"chunk of at most {chunk}: separate parts of that length, or name one denoiser per source."
                )
            return SeparationResult(overlap_add(separate, mixtures, chunk))

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Groups of exchangeable sources, (num_mixtures, S) long: those of equal denoiser, weight and class."""
        weights = weights_or_mean(self.mixing_weights, self.num_sources)
        kinds = [(id(denoiser), weight) for denoiser, weight in zip(self.denoisers, weights, strict=True)]
        kind = torch.tensor([kinds.index(each) for each in kinds]).expand(num_mixtures, -1)
        equal = kind[:, :, None] == kind[:, None]
        if conditions is not None:
            equal = equal & (conditions[:, :, None] == conditions[:, None]).cpu()
        return equal.long().argmax(2)

    def to(self, device: torch.device | str) -> DenoiserMethod:
        """Move the denoisers to a device."""
        # Lightning predicts in inference mode: parameters that are moved within it could not take part in autograd.
        with torch.inference_mode(False):
            for denoiser in self._distinct:
                if isinstance(denoiser, nn.Module):
                    denoiser.to(device)
        return self

    def check_data(self, data: object) -> None:
        """Raise LassError if a data module has another sample rate than a denoiser."""
        for denoiser in self.denoisers:
            check_sample_rate(data, denoiser, "the denoiser", "train a denoiser for")

    @property
    def settings(self) -> dict[str, Any]:
        """All settings on which estimates depend; see `lass.methods.protocol.ConfiguredMethod`."""
        names = ("num_sources", "mixing_weights", "start", *self.own_settings)
        others = {
            f"denoiser {number}": {"class": type(each).__name__, **identity_of(each)}
            for number, each in enumerate(self.denoisers, 1)
            if not isinstance(each, nn.Module)
        }
        return {name: getattr(self, name) for name in names} | others

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of the denoiser of each source that is a module; see `lass.methods.protocol.FittedMethod`."""
        known = {id(each): fingerprint(each) for each in self._distinct if isinstance(each, nn.Module)}
        return {
            f"denoiser {number}": known[id(each)]
            for number, each in enumerate(self.denoisers, 1)
            if isinstance(each, nn.Module)
        }

    @property
    def _distinct(self) -> list[Denoiser]:
        """Each denoiser once, by identity: equal ones may still be two."""
        return list({id(each): each for each in self.denoisers}.values())
