"""Glow of noisy images: a density whose gradient denoises."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import register
from lass.denoisers.density import DensityDenoiser
from lass.errors import LassError, check_number, check_sizes
from lass.optional import optional_package

MAX_WIDTH, MAX_SIZE, MAX_STEPS, MAX_SCALES = 2**14, 2**14, 2**8, 8  # limits of sizes from a file


@register
class GlowDenoiser(DensityDenoiser):
    """Normalizing flow of images with Gaussian noise, p(x + σ ε), conditioned on the noise level σ.

    The images are brought to mean 0 and standard deviation 1 at each noise level. Then, at each scale, 2×2 pixels
    become channels, steps of an invertible 1×1 convolution and an affine coupling follow, and half of the channels are
    latents. The latents are Gaussian, with a mean and a standard deviation each. The networks of the couplings get the
    logarithm of the noise level as a further channel. There is no activation normalisation: the input is normalised,
    and the convolutions and couplings include all scales and shifts of it.

    Args:
        shape: Shape of an image, (channels, height, width); the sizes must be divisible by 2 to the power of
            `num_scales`.
        num_scales: Number of scales.
        num_steps: Steps at each scale.
        width: Hidden channels of the networks in the couplings.
        mean, std: Mean and standard deviation of the sources.
        sigma_min, sigma_max: Noise levels between which the flow is trained, in the units of the sources. Beyond them,
            the couplings are given the nearest of them.

    Raises:
        LassError: if a setting is out of range, or normflows is not installed.

    Source: Kingma and Dhariwal 2018 (arXiv:1807.03039). Jayaram and Thickstun 2020 (arXiv:2002.07942) fine-tune one
    Glow for each of ten noise levels; here all levels share one flow.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        num_scales: int = 2,
        num_steps: int = 8,
        width: int = 64,
        mean: float = 0.5,
        std: float = 0.5,
        sigma_min: float = 0.01,
        sigma_max: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(MAX_SCALES, num_scales=num_scales)
        if len(shape) != 3:
            raise LassError(f"shape must be (channels, height, width), not {tuple(shape)}.")
        for size in shape:
            check_sizes(MAX_SIZE, **{"each size of shape": size})
        if any(size % 2**num_scales for size in shape[1:]):
            raise LassError(
                f"height and width must be divisible by {2**num_scales} for num_scales = {num_scales}, not {shape[1:]}."
            )
        check_sizes(MAX_STEPS, num_steps=num_steps)
        check_sizes(MAX_WIDTH, width=width)
        check_number("mean", mean)
        check_number("std", std, above=0)
        check_number("sigma_min", sigma_min, above=0)
        check_number("sigma_max", sigma_max, above=sigma_min)
        self.shape = self.image_shape = tuple(shape)
        self.mean, self.std, self.sigma_min, self.sigma_max = mean, std, sigma_min, sigma_max
        self.config = {
            "shape": list(shape),
            "num_scales": num_scales,
            "num_steps": num_steps,
            "width": width,
            "mean": mean,
            "std": std,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
        }
        channels, height, side = self.shape
        scales = []
        for number in range(num_scales):
            channels, height, side = 4 * channels, height // 2, side // 2
            scales.append(Scale((channels, height, side), num_steps, width, is_last=number == num_scales - 1))
            channels //= 2
        self.scales = nn.ModuleList(scales)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs; 1.4 times as fast on a CPU

    def log_prob(
        self, noisy: Float[Tensor, "batch channels height width"], sigma: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Log density of noisy images; see `DensityDenoiser.log_prob`."""
        if tuple(noisy.shape[1:]) != self.shape:
            raise LassError(
                f"This denoiser is for images of shape {self.shape}, got {tuple(noisy.shape[1:])}: use images of that "
                "shape, or train another denoiser."
            )
        scale = (self.std**2 + sigma.square()).sqrt()
        position = (sigma.clamp(self.sigma_min, self.sigma_max) / self.sigma_min).log()
        level = 2 * position / math.log(self.sigma_max / self.sigma_min) - 1
        values = (noisy - self.mean) / scale[:, None, None, None]
        log_density = -math.prod(self.shape) * scale.log()
        for each in self.scales:
            values, gain = each(values, level[:, None, None, None])
            log_density = log_density + gain
        return log_density


class Scale(nn.Module):
    """One scale of the flow: squeeze, steps, and the density of the latents that leave the flow at this scale."""

    def __init__(self, shape: tuple[int, int, int], num_steps: int, width: int, is_last: bool) -> None:
        super().__init__()
        normflows = optional_package("normflows", "normflows", "diffusion")
        channels, *space = shape
        self.squeeze = normflows.flows.Squeeze()
        self.steps = nn.ModuleList(Step(channels, width) for _ in range(num_steps))
        self.base = normflows.distributions.DiagGaussian((channels if is_last else channels // 2, *space))
        self.is_last = is_last

    def forward(self, values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values for the next scale, and the contribution of this one to the log density, (batch,)."""
        values, _ = self.squeeze.inverse(values)
        log_det = values.new_zeros(len(values))
        for step in self.steps:
            values, gain = step(values, level)
            log_det = log_det + gain
        values, latents = (values, values) if self.is_last else values.chunk(2, 1)
        return values, log_det + self.base.log_prob(latents)


class Step(nn.Module):
    """Invertible 1×1 convolution and affine coupling, from the image to the latents."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        normflows = optional_package("normflows", "normflows", "diffusion")
        self.mixing = normflows.flows.Invertible1x1Conv(channels)
        network = normflows.nets.ConvNet2d([channels // 2 + 1, width, width, channels], kernel_size=(3, 1, 3))
        self.coupling = normflows.flows.AffineCoupling(network, scale_map="sigmoid")

    def forward(self, values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transformed values, and the log determinant of the Jacobian, (batch,)."""
        values, log_det = self.mixing.inverse(values)
        kept, changed = values.chunk(2, 1)
        condition = torch.cat([kept, level.expand_as(kept[:, :1])], 1)
        (_, changed), gain = self.coupling.inverse([condition, changed])
        return torch.cat([kept, changed], 1), log_det + gain
