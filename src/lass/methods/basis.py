"""BASIS: annealed Langevin dynamics on all sources of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lass.errors import LassError, check_number
from lass.methods.denoiser_method import AnyDenoiser, DenoiserMethod, StartName, check_levels
from lass.samplers.generators import MixtureGenerators


class BASIS(DenoiserMethod):
    """Samples from the posterior of the sources by Langevin dynamics, at decreasing noise levels.

    At the noise level σ, the sources x follow x + η ∇ log p(x | mixture) + √(2η) ε. The density is the product of the
    densities of noisy sources, whose gradients are the scores, and of a Gaussian likelihood of the mixture given Σ wₛ
    xₛ, with standard deviation γ σ √(Σ wₛ² / S), which for mixtures that are sums of sources is γ σ. The step η is δ (σ
    / σ_L)², where σ_L is the last level.

    Args:
        denoisers, num_sources, mixing_weights, start: See `DenoiserMethod`.
        sigma_max, sigma_min: First and last noise level, in the units of the sources.
        num_levels: Number of levels, in geometric progression.
        steps_per_level: Langevin steps at each level.
        step_size: Step δ at the last level, relative to σ_L².
        gamma: Standard deviation γ of the likelihood, relative to the noise level.

    Raises:
        LassError: if a setting is out of range, or the steps would diverge: 1 - step_size (1 + S / γ²), by which a step
            multiplies errors of the mixture, must be above -1.

    Source: Jayaram and Thickstun 2020 (arXiv:2002.07942), Algorithm 1; its δ = 2·10⁻⁵ at σ_L = 0.01 is a `step_size` of
    0.2. Their code for digits has a step_size of 0.3 and γ = 1/√2. Rows BASIS of Table 2 of LASS (arXiv:2301.08562).
    The reference starts from uniform noise.
    """

    own_settings: ClassVar[tuple[str, ...]] = (
        "sigma_max",
        "sigma_min",
        "num_levels",
        "steps_per_level",
        "step_size",
        "gamma",
    )

    def __init__(
        self,
        denoisers: AnyDenoiser | Sequence[AnyDenoiser],
        num_sources: int | None = None,
        mixing_weights: Sequence[float] | None = None,
        start: StartName = "noise",
        sigma_max: float = 1.0,
        sigma_min: float = 0.01,
        num_levels: int = 10,
        steps_per_level: int = 100,
        step_size: float = 0.2,
        gamma: float = 1.0,
    ) -> None:
        super().__init__(denoisers, num_sources, mixing_weights, start)
        check_levels(sigma_min, sigma_max)
        check_number("num_levels", num_levels, at_least=1, whole=True)
        check_number("steps_per_level", steps_per_level, at_least=1, whole=True)
        check_number("step_size", step_size, above=0)
        check_number("gamma", gamma, above=0)
        if step_size * (1 + self.num_sources / gamma**2) >= 2:
            raise LassError(
                f"With step_size = {step_size:g}, gamma = {gamma:g} and {self.num_sources} sources the steps diverge: "
                f"step_size must be below {2 / (1 + self.num_sources / gamma**2):.3g}."
            )
        self.sigma_max, self.sigma_min, self.num_levels = sigma_max, sigma_min, num_levels
        self.steps_per_level, self.step_size, self.gamma = steps_per_level, step_size, gamma

    def sample(
        self,
        mixtures: Float[Tensor, "M channels *space"],
        weights: Float[Tensor, " S"],
        conditions: Tensor | None,
        generators: MixtureGenerators,
    ) -> Float[Tensor, "M S channels *space"]:
        """See `DenoiserMethod.sample`."""
        sources = self.first_sources(mixtures, weights, self.sigma_max, generators)
        levels = self.sigma_max * torch.logspace(0, 1, self.num_levels, self.sigma_min / self.sigma_max)
        for number in range(self.num_levels * self.steps_per_level):
            level = float(levels[number // self.steps_per_level])
            sources = self.step(sources, mixtures, weights, number, level, conditions, generators)
        return sources

    def step(
        self,
        sources: Float[Tensor, "M S channels *space"],
        mixtures: Float[Tensor, "M channels *space"],
        weights: Float[Tensor, " S"],
        number: int,
        level: float,
        conditions: Tensor | None,
        generators: MixtureGenerators,
    ) -> Float[Tensor, "M S channels *space"]:
        """Move all sources by step `number`, at one noise level."""
        scales = weights.reshape(-1, *[1] * (mixtures.ndim - 1))
        precision = 1 / (self.gamma**2 * weights.square().mean())
        # The gradients have the factor 1 / σ² and the step has σ², so both are left out.
        of_sources = self.denoise(sources, level, conditions) - sources
        of_mixture = precision * scales * (mixtures - (scales * sources).sum(1)).unsqueeze(1)
        noise = (2 * self.step_size) ** 0.5 * level * generators.normal(*sources.shape[1:])
        return sources + self.step_size * (of_sources + of_mixture) + noise
