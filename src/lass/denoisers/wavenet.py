"""WaveNet of noisy audio: an autoregressive density whose gradient denoises."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import register
from lass.denoisers.density import DensityDenoiser
from lass.errors import LassError, check_number, check_sizes

MAX_WIDTH, MAX_SIZE, MAX_LAYERS, MAX_BLOCKS, MAX_COMPONENTS = 2**14, 2**31, 16, 2**8, 2**10  # limits of a file
NUM_FEATURES = 32  # of the noise level
NARROWEST = -7.0  # logarithm of the smallest standard deviation of a component, in units of that of the sources


@register
class WaveNetDenoiser(DensityDenoiser):
    """Autoregressive density of mono audio with Gaussian noise, p(x + σ ε), conditioned on the noise level σ.

    From the noisy samples before it, a stack of dilated causal convolutions predicts each clean sample as a mixture of
    Gaussians. The noise of a sample is independent of everything else, so the density of the noisy sample is the same
    mixture with the variance σ² added.

    Args:
        shape: (1, samples), where the number of samples is only that of the chunks into which methods divide longer
            signals.
        sample_rate: Sample rate in Hz.
        width: Channels of the residual and of the skip connections.
        num_layers: Layers in a block, with the dilations 1, 2, 4…
        num_blocks: Number of blocks.
        num_components: Gaussians in the mixture.
        std: Standard deviation of the sources, whose mean is 0.
        sigma_min, sigma_max: Noise levels between which the network is trained, in the units of the sources. Beyond
            them, it is given the nearest of them.

    Raises:
        LassError: if a setting is out of range.

    Source: Jayaram and Thickstun 2021 (arXiv:2105.08164), who fine-tune a WaveNet of 256 discrete values for each of
    several noise levels; here all levels share one network of continuous values. Network: van den Oord et al. 2016
    (arXiv:1609.03499).
    """

    def __init__(
        self,
        shape: Sequence[int],
        sample_rate: int,
        width: int = 32,
        num_layers: int = 9,
        num_blocks: int = 2,
        num_components: int = 5,
        std: float = 0.1,
        sigma_min: float = 0.001,
        sigma_max: float = 1.0,
    ) -> None:
        super().__init__()
        if len(shape) != 2 or shape[0] != 1:
            raise LassError(f"shape must be (1, samples), not {tuple(shape)}.")
        check_sizes(MAX_SIZE, **{"samples of shape": shape[1], "sample_rate": sample_rate})
        check_sizes(MAX_WIDTH, width=width)
        check_sizes(MAX_LAYERS, num_layers=num_layers)
        check_sizes(MAX_BLOCKS, num_blocks=num_blocks)
        check_sizes(MAX_COMPONENTS, num_components=num_components)
        check_number("std", std, above=0)
        check_number("sigma_min", sigma_min, above=0)
        check_number("sigma_max", sigma_max, above=sigma_min)
        self.shape, self.sample_rate, self.std = tuple(shape), sample_rate, std
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        #: Number of samples before a sample on which its density depends.
        self.receptive_field = 1 + num_blocks * (2**num_layers - 1)
        self.config = {
            "shape": list(shape),
            "sample_rate": sample_rate,
            "width": width,
            "num_layers": num_layers,
            "num_blocks": num_blocks,
            "num_components": num_components,
            "std": std,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
        }
        self.level = nn.Sequential(nn.Linear(1, NUM_FEATURES), nn.SiLU(), nn.Linear(NUM_FEATURES, NUM_FEATURES))
        self.input = nn.Conv1d(1, width, 1)
        dilations = [2**number for number in range(num_layers)] * num_blocks
        self.layers = nn.ModuleList(Layer(width, dilation) for dilation in dilations)
        self.output = nn.Sequential(
            nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 3 * num_components, 1)
        )

    def log_prob(
        self, noisy: Float[Tensor, "batch channels samples"], sigma: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Log density of noisy audio of any length; see `DensityDenoiser.log_prob`."""
        if noisy.shape[1] != 1:
            raise LassError(f"This denoiser is for mono audio, got {noisy.shape[1]} channels: mix them down.")
        noise = (sigma / self.std)[:, None, None]
        values = noisy / self.std
        weights, means, widths = self._clean(values / (1 + noise.square()).sqrt(), sigma)
        variances = (2 * widths.clamp(min=NARROWEST)).exp() + noise.square()
        log_densities = -0.5 * ((values - means).square() / variances + variances.log() + math.log(2 * math.pi))
        log_density = (weights.log_softmax(1) + log_densities).logsumexp(1)
        return (log_density - math.log(self.std)).sum(1)

    def _clean(self, scaled: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (logits), means and log standard deviations of the clean samples, (batch, components, samples)."""
        position = (sigma.clamp(self.sigma_min, self.sigma_max) / self.sigma_min).log()
        features = self.level(2 * position[:, None] / math.log(self.sigma_max / self.sigma_min) - 1)
        values = self.input(F.pad(scaled, (1, -1)))  # a sample is predicted from those before it
        skipped = torch.zeros_like(values)
        for layer in self.layers:
            values, skip = layer(values, features)
            skipped = skipped + skip
        weights, means, widths = self.output(skipped / len(self.layers) ** 0.5).chunk(3, 1)
        return weights, means, widths


class Layer(nn.Module):
    """Gated causal convolution with a residual and a skip connection, modulated by the noise level."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.gate = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.level = nn.Linear(NUM_FEATURES, 2 * width)
        self.mix = nn.Conv1d(width, 2 * width, 1)

    def forward(self, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values for the next layer, and the contribution to the output, both (batch, width, samples)."""
        gates = self.gate(F.pad(values, (self.dilation, 0))) + self.level(features)[:, :, None]
        signal, gate = gates.chunk(2, 1)
        change, skip = self.mix(signal.tanh() * gate.sigmoid()).chunk(2, 1)
        return values + change, skip
