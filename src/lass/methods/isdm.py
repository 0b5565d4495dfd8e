"""ISDM: independent diffusion models of the sources, sampled together under the constraint of the mixture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from lass.denoisers.sampling import karras_levels
from lass.errors import LassError, check_number
from lass.methods.denoiser_method import AnyDenoiser, DenoiserMethod, StartName, check_levels
from lass.samplers.generators import MixtureGenerators

LikelihoodName = Literal["dirac", "gaussian"]


class ISDM(DenoiserMethod):
    """Samples the sources by integrating the reverse diffusion of all of them, guided by the mixture.

    With the Dirac likelihood, the noisy sources mix exactly into the mixture: the reference source is what the others
    leave, and its score is subtracted from theirs. With the Gaussian likelihood, the gradient of the log likelihood of
    the mixture is added to the scores, see `BASIS`.

    Args:
        denoisers, num_sources, mixing_weights, start: See `DenoiserMethod`.
        likelihood: "dirac" or "gaussian".
        reference: Number of the reference source of the Dirac likelihood, from 0.
        gamma: Standard deviation of the Gaussian likelihood, relative to the noise level.
        num_steps: Number of noise levels.
        sigma_max, sigma_min: First and last noise level before 0, in the units of the sources.
        rho: Exponent of the levels, see `karras_levels`.
        churn: Total amount of noise that is added and removed again, S_churn. It raises each level by the factor 1 +
            churn / num_steps, and by √2 at most.
        num_resamples: Steps at each level; after all but the last, noise is added to return to the level.

    Raises:
        LassError: if a setting is out of range.

    Source: Mariani et al. 2023 (arXiv:2302.02257), Algorithm 1. The Gaussian likelihood of its code has the variance
    2 γ²: its γ is ours divided by √2.
    """

    own_settings: ClassVar[tuple[str, ...]] = (
        "likelihood",
        "reference",
        "gamma",
        "num_steps",
        "sigma_max",
        "sigma_min",
        "rho",
        "churn",
        "num_resamples",
    )

    def __init__(
        self,
        denoisers: AnyDenoiser | Sequence[AnyDenoiser],
        num_sources: int | None = None,
        mixing_weights: Sequence[float] | None = None,
        start: StartName = "noise",
        likelihood: LikelihoodName = "dirac",
        reference: int = 0,
        gamma: float = 1.0,
        num_steps: int = 150,
        sigma_max: float = 1.0,
        sigma_min: float = 1e-4,
        rho: float = 7.0,
        churn: float = 40.0,
        num_resamples: int = 2,
    ) -> None:
        super().__init__(denoisers, num_sources, mixing_weights, start)
        if likelihood not in get_args(LikelihoodName):
            raise LassError(f"likelihood must be 'dirac' or 'gaussian', not {likelihood!r:.50}.")
        check_number("reference", reference, at_least=0, below=self.num_sources, whole=True)
        check_number("gamma", gamma, above=0)
        check_number("num_steps", num_steps, at_least=1, whole=True)
        check_levels(sigma_min, sigma_max)
        check_number("rho", rho, above=0)
        check_number("churn", churn, at_least=0)
        check_number("num_resamples", num_resamples, at_least=1, whole=True)
        self.likelihood, self.reference, self.gamma = likelihood, reference, gamma
        self.num_steps, self.sigma_max, self.sigma_min, self.rho = num_steps, sigma_max, sigma_min, rho
        self.churn, self.num_resamples = churn, num_resamples

    def sample(
        self,
        mixtures: Float[Tensor, "M channels *space"],
        weights: Float[Tensor, " S"],
        conditions: Tensor | None,
        generators: MixtureGenerators,
    ) -> Float[Tensor, "M S channels *space"]:
        """See `DenoiserMethod.sample`."""
        shape = (len(weights), *mixtures.shape[1:])
        scales = weights.reshape(-1, *[1] * (mixtures.ndim - 1))
        levels = karras_levels(self.num_steps, self.sigma_min, self.sigma_max, self.rho).tolist()
        excess = 1 + min(self.churn / self.num_steps, 2**0.5 - 1)
        sources = self.first_sources(mixtures, weights, levels[0], generators)
        for sigma, following in itertools.pairwise(levels):
            raised = excess * sigma
            for repeat in range(self.num_resamples):
                sources = sources + (raised**2 - sigma**2) ** 0.5 * generators.normal(*shape)
                if self.likelihood == "dirac":
                    sources = self._projected(sources, mixtures, scales)
                slope = (sources - self.denoise(sources, raised, conditions)) / raised
                sources = sources + (following - raised) * self._conditioned(slope, sources, mixtures, scales, raised)
                if repeat < self.num_resamples - 1:
                    sources = sources + (sigma**2 - following**2) ** 0.5 * generators.normal(*shape)
        return self._projected(sources, mixtures, scales) if self.likelihood == "dirac" else sources

    def _projected(self, sources: Tensor, mixtures: Tensor, scales: Tensor) -> Tensor:
        """Replace the reference source by what the other sources leave of the mixture."""
        residual = mixtures - (scales * sources).sum(1)
        sources = sources.clone()
        sources[:, self.reference] += residual / scales[self.reference]
        return sources

    def _conditioned(self, slope: Tensor, sources: Tensor, mixtures: Tensor, scales: Tensor, sigma: float) -> Tensor:
        """Slope -σ ∇ log p(x | mixture) of the sources, from that of p(x)."""
        if self.likelihood == "dirac":
            return slope - scales / scales[self.reference] * slope[:, self.reference].unsqueeze(1)
        variance = self.gamma**2 * scales.square().mean()
        residual = mixtures - (scales * sources).sum(1)
        return slope - scales * residual.unsqueeze(1) / (variance * sigma)
