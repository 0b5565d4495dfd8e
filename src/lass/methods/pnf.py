"""PnF: stochastic Langevin dynamics through autoregressive densities of noisy audio."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lass.errors import LassError, check_number
from lass.methods.basis import BASIS
from lass.methods.denoiser_method import AnyDenoiser, StartName
from lass.samplers.generators import MixtureGenerators

GOLDEN_RATIO = 0.6180339887


class PnF(BASIS):
    """Samples from the posterior of the sources by Langevin dynamics of one window of the signal after another.

    The density of a window given the rest depends on as many samples before and after it as the receptive field of the
    autoregressive model has, so that memory is bounded for any length. All windows are moved in a step of `BASIS`, in
    the order of time; their borders differ from step to step.

    Args:
        denoisers, num_sources, mixing_weights, start: See `BASIS`. With a `window`, the denoisers must have a
            `receptive_field`, as `lass.denoisers.WaveNetDenoiser`.
        window: Samples of a window; null for the whole signal.
        sigma_max, sigma_min, num_levels, steps_per_level, step_size, gamma: See `BASIS`.

    Raises:
        LassError: as `BASIS`, or if a denoiser has no `receptive_field`, which a window needs.

    Source: Jayaram and Thickstun 2021 (arXiv:2105.08164), Section 3. The defaults are the settings of their code for
    piano and voice, but a tenth of its 10,000 steps; its values of 0…255 are ours of -1…1.
    """

    own_settings: ClassVar[tuple[str, ...]] = (*BASIS.own_settings, "window")

    def __init__(
        self,
        denoisers: AnyDenoiser | Sequence[AnyDenoiser],
        num_sources: int | None = None,
        mixing_weights: Sequence[float] | None = None,
        start: StartName = "noise",
        window: int | None = None,
        sigma_max: float = 2.0,
        sigma_min: float = 0.0008,
        num_levels: int = 1000,
        steps_per_level: int = 1,
        step_size: float = 0.05,
        gamma: float = 15**-0.5,
    ) -> None:
        super().__init__(
            denoisers,
            num_sources,
            mixing_weights,
            start,
            sigma_max,
            sigma_min,
            num_levels,
            steps_per_level,
            step_size,
            gamma,
        )
        self.window, self.context = window, 0
        if window is not None:
            check_number("window", window, at_least=1, whole=True)
            for denoiser in self.denoisers:
                if not hasattr(denoiser, "receptive_field"):
                    raise LassError(
                        f"A window needs denoisers with a receptive_field, such as WaveNetDenoiser; "
                        f"{type(denoiser).__name__} has none: use that, or leave out the window."
                    )
            self.context = max(each.receptive_field for each in self.denoisers)  # type: ignore[attr-defined] # checked

    def step(
        self,
        sources: Float[Tensor, "M S channels samples"],
        mixtures: Float[Tensor, "M channels samples"],
        weights: Float[Tensor, " S"],
        number: int,
        level: float,
        conditions: Tensor | None,
        generators: MixtureGenerators,
    ) -> Float[Tensor, "M S channels samples"]:
        """Move all windows in turn by one step at one noise level."""
        if self.window is None:
            return super().step(sources, mixtures, weights, number, level, conditions, generators)
        length = sources.shape[-1]
        first = 1 + int(number * GOLDEN_RATIO * self.window) % self.window  # which spreads the borders evenly
        borders = [0, *range(first, length, self.window), length]
        sources = sources.clone()
        for start, end in itertools.pairwise(borders):
            near = slice(max(0, start - self.context), end + self.context)
            moved = super().step(
                sources[..., near], mixtures[..., near], weights, number, level, conditions, generators
            )
            sources[..., start:end] = moved[..., start - near.start : end - near.start]
        return sources
