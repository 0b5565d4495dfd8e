"""Noise levels of samplers, and samples of single sources from a denoiser."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lass.denoisers.protocol import Denoiser


def karras_levels(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Float[Tensor, " levels"]:
    """Decreasing noise levels: `num_steps` from `sigma_max` to `sigma_min`, equidistant in σ^(1/ρ), and then 0.

    Source: Karras et al. 2022 (arXiv:2206.00364), Eq. 5.
    """
    roots = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps, dtype=torch.float64)
    return torch.cat([roots**rho, roots.new_zeros(1)]).to(torch.get_default_dtype())


@torch.no_grad()
def sample_sources(
    denoiser: Denoiser, noise: Tensor, levels: Float[Tensor, " levels"], condition: Tensor | None = None
) -> Tensor:
    """Sample sources by integrating the probability flow with Heun's method.

    At the first level, the noise is added to the source that is expected from noise alone, about the mean of all.

    Args:
        denoiser: Model of the sources.
        noise: Standard normal noise, (batch, channels, *space).
        levels: Decreasing noise levels, the last one 0; see `karras_levels`.
        condition: See `Denoiser.denoise`.

    Returns:
        Shaped like `noise`.

    Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 1, with another start.
    """
    sources = levels[0] * noise
    sources = sources + denoiser.denoise(sources, sources.new_full((len(noise),), float(levels[0])), condition)
    for sigma, following in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        slope = _slope(denoiser, sources, sigma, condition)
        step = sources + (following - sigma) * slope
        if following:
            step = sources + (following - sigma) * (slope + _slope(denoiser, step, following, condition)) / 2
        sources = step
    return sources


def _slope(denoiser: Denoiser, sources: Tensor, sigma: float, condition: Tensor | None) -> Tensor:
    level = sources.new_full((len(sources),), sigma)
    return (sources - denoiser.denoise(sources, level, condition)) / sigma
