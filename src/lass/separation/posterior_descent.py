"""Refinement of the posterior mean of the latents that uses their posterior variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lass.artifacts import register
from lass.codecs import Codec
from lass.errors import check_number
from lass.separation.refinement import LatentDescent, decode_sources

BASE_VARIANCE = 1e-4  # added to that of every sample of a signal: where all are 0, the residual is shared equally


@register
@dataclass(frozen=True)
class PosteriorDescent(LatentDescent):
    """LatentDescent with the posterior variance: in the proximal term, and to share the residual among the sources.

    Let m be the mean of the candidates' latents and v their variance, for every number in the latents, and f the
    variance_floor, which accounts for the quantisation error of the codec.

    1. Descent: minimise mean((mix(D(e¹), …, D(eˢ)) − y)²) + proximal_weight · Σₛ mean((eˢ − mˢ)² / (vˢ + f)). With
       N(m, v + f) as the prior of the latents, this is a maximum a posteriori estimate.
    2. Residual: let uₛ be the variance of a number of source s, such as a pixel, that follows from the variance v + f
       of its latents. Source s receives wₛ uₛ / Σₜ wₜ² uₜ of r = y − mix(D(e¹), …, D(eˢ)), so that the estimates mix
       into the mixture. This is the conditional mean of independent Gaussian errors given their weighted sum r.

    Without posterior_mean there is one candidate, v is 0, and every number has the variance f.

    Args:
        steps, learning_rate, halve_every, project_to_mixture: See `LatentDescent`.
        proximal_weight: See above; in units of the mean squared error, so smaller than that of `LatentDescent`.
        variance_floor: f, in units of the latents' variance.
        probes: Number of random perturbations of the latents from which u is estimated.

    Source: our own. Conditional mean of Gaussians: Bishop 2006, "Pattern Recognition and Machine Learning", Eq. 2.81.
    """

    steps: int = 100
    learning_rate: float = 0.03
    halve_every: int = 20
    proximal_weight: float = 3e-4
    variance_floor: float = 3e-3
    probes: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("variance_floor of PosteriorDescent", self.variance_floor, above=0)
        check_number("probes of PosteriorDescent", self.probes, at_least=1, whole=True)

    def refine(self, latents: Tensor, mixtures: Tensor, codec: Codec, weights: Sequence[float] | None = None) -> Tensor:
        """See `Refinement`."""
        return self.refine_posterior(latents, torch.zeros_like(latents), mixtures, codec, weights)

    def refine_posterior(
        self,
        latents: Tensor,
        variances: Tensor,
        mixtures: Tensor,
        codec: Codec,
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        """See `PosteriorRefinement`. Mixtures do not influence each other."""
        variances = variances + self.variance_floor
        refined = self.descend(latents, self.proximal_weight / variances, mixtures, codec, weights)
        estimates, uncertainty = self._decode(refined, variances, codec)
        return self.consistent(share_residual(estimates, uncertainty, mixtures, weights), mixtures, weights)

    @torch.no_grad()
    def _decode(self, latents: Tensor, variances: Tensor, codec: Codec) -> tuple[Tensor, Tensor]:
        """Decode latents; return the signals and their variance, both (M, S, channels, *space)."""
        decoded, deviation = decode_sources(latents, codec), variances.sqrt()
        generator, total = torch.Generator().manual_seed(0), torch.zeros_like(decoded)
        for _ in range(self.probes):
            # The same noise for all mixtures, so that the result of one does not depend on its batch.
            noise = torch.randn(latents.shape[1:], generator=generator).to(deviation)
            total += (decode_sources(latents + deviation * noise, codec) - decoded).square()
        return decoded, total / self.probes


def share_residual(
    estimates: Tensor, variances: Tensor, mixtures: Tensor, weights: Sequence[float] | None = None
) -> Tensor:
    """Share the residual of the mixture among the estimates in proportion to their variance; see `PosteriorDescent`, 2.

    Args:
        estimates: (M, S, channels, *space).
        variances: Variance of each of their numbers; `BASE_VARIANCE` is added.
        mixtures: (M, channels, *space).
        weights: Mixing weights; None for the mean.

    Returns:
        New estimates, shaped like `estimates`, that mix into the mixtures.
    """
    num_sources = estimates.shape[1]
    factors = estimates.new_tensor(weights or [1 / num_sources] * num_sources)
    factors = factors.view(-1, *[1] * (estimates.dim() - 2))
    gains = factors * (variances + BASE_VARIANCE)
    residual = mixtures[:, None] - (factors * estimates).sum(1, keepdim=True)
    return estimates + gains / (factors * gains).sum(1, keepdim=True) * residual
