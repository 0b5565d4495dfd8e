"""U-Net that denoises images or audio, with the input and output scaling of EDM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lass.artifacts import register
from lass.denoisers.trainable import TrainableDenoiser
from lass.errors import LassError, check_number, check_sizes
from lass.optional import optional_package

MAX_WIDTH, MAX_SIZE, MAX_DEPTH, MAX_BLOCKS, MAX_STRIDE = 2**14, 2**31, 16, 2**8, 16  # limits of sizes from a file


@register
class UNetDenoiser(TrainableDenoiser):
    """Denoiser of single sources: images of one shape, or mono audio of any length.

    The network is azula's U-Net, whose one class of few lines serves images and audio, and is modulated by the noise
    level. Its input and output are scaled as in EDM, for sources that are first brought to mean 0 and standard
    deviation 1, so that it estimates the clean source at high noise levels and the noise at low ones.

    Args:
        shape: Shape of a source, (channels, height, width), or (1, samples) for audio, where the number of samples is
            only that of the chunks into which methods divide longer signals.
        sample_rate: Sample rate of audio in Hz; null for images.
        patch: Side of the patches of pixels or samples that become the channels of one position of the network.
        widths: Channels at each depth of the network.
        num_blocks: Residual blocks at each depth, on the way down and on the way up.
        kernel_size: Kernel size of the convolutions.
        stride: Factor between the sizes of two depths.
        mean, std: Mean and standard deviation of the sources.
        sigma_min, sigma_max: Noise levels between which the network is trained, in the units of the sources. Beyond
            them, the network is given the nearest of them.
        num_classes: Number of classes of sources; 0 for an unconditional denoiser.
        class_dropout: Probability of withholding the class, in training. Above 0, the denoiser can be used with and
            without a class.
        dropout: Dropout rate inside the residual blocks.

    Raises:
        LassError: if a setting is out of range, or azula is not installed.

    Source: Karras et al. 2022 (arXiv:2206.00364), Eq. 7 and Table 1 ("Ours"), with σ_data = 1.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        sample_rate: int | None = None,
        patch: int = 2,
        widths: Sequence[int] = (48, 96),
        num_blocks: Sequence[int] = (2, 2),
        kernel_size: int = 3,
        stride: int = 2,
        mean: float = 0.5,
        std: float = 0.5,
        sigma_min: float = 0.01,
        sigma_max: float = 1.0,
        num_classes: int = 0,
        class_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        is_image = sample_rate is None and len(shape) == 3
        if not is_image and not (sample_rate is not None and len(shape) == 2 and shape[0] == 1):
            raise LassError(
                "shape must be (channels, height, width) for images, and (1, samples) with a sample_rate for audio, "
                f"not {tuple(shape)} with sample_rate = {sample_rate}."
            )
        channels, *space = shape
        self.spatial = len(space)
        check_sizes(MAX_WIDTH, channels=channels, patch=patch, kernel_size=kernel_size)
        check_sizes(MAX_STRIDE, stride=stride)  # of which no weight depends: it would only be seen in the upsampling
        for size in space:
            check_sizes(MAX_SIZE, **{"each size of shape": size})
        check_depths(widths, num_blocks)
        if kernel_size % 2 == 0:
            raise LassError(f"kernel_size must be odd, not {kernel_size}.")
        if sample_rate is not None:
            check_sizes(MAX_SIZE, sample_rate=sample_rate)
        check_number("mean", mean)
        check_number("std", std, above=0)
        check_number("sigma_min", sigma_min, above=0)
        check_number("sigma_max", sigma_max, above=sigma_min)
        check_number("num_classes", num_classes, at_least=0, at_most=MAX_WIDTH, whole=True)
        check_number("class_dropout", class_dropout, at_least=0, at_most=1)
        check_number("dropout", dropout, at_least=0, below=1)
        self.shape, self.patch, self.mean, self.std = tuple(shape), patch, mean, std
        if sample_rate is None:
            self.image_shape = self.shape
        else:
            self.sample_rate = sample_rate
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.num_classes, self.class_dropout = num_classes, class_dropout
        self.config = {
            "shape": list(shape),
            "sample_rate": sample_rate,
            "patch": patch,
            "widths": list(widths),
            "num_blocks": list(num_blocks),
            "kernel_size": kernel_size,
            "stride": stride,
            "mean": mean,
            "std": std,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
            "num_classes": num_classes,
            "class_dropout": class_dropout,
            "dropout": dropout,
        }
        self.network = Network(
            channels, self.spatial, patch, list(widths), list(num_blocks), kernel_size, stride, dropout, num_classes
        )

    def denoise(
        self,
        noisy: Float[Tensor, "batch channels *space"],
        sigma: Float[Tensor, " batch"],
        condition: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels *space"]:
        """See `Denoiser.denoise`.

        Raises:
            LassError: if the sources have another shape, or if the condition does not fit the classes.
        """
        self._check(noisy, condition)
        shape = (-1, *[1] * (noisy.ndim - 1))
        noisy, level = (noisy - self.mean) / self.std, sigma / self.std
        variance = (1 + level.square()).reshape(shape)
        trained = sigma.clamp(self.sigma_min, self.sigma_max) / self.std
        output = self.network(noisy / variance.sqrt(), trained.log(), condition)
        clean = noisy / variance + level.reshape(shape) / variance.sqrt() * output
        return self.mean + self.std * clean

    def loss(
        self, sources: Float[Tensor, "batch channels *space"], condition: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, ""]:
        """Weighted mean squared error for noise levels drawn log-uniformly between `sigma_min` and `sigma_max`.

        The weight is 1/σ² + 1/std², so that an untrained network has a loss of about 1 at every level. In training, a
        fraction `class_dropout` of the classes is withheld.

        Args:
            sources: Clean sources.
            condition: Class of each source, or -1 to withhold it; not used by an unconditional denoiser.

        Returns:
            Mean over the batch.

        Source: Karras et al. 2022 (arXiv:2206.00364), Eq. 8 and λ of Table 1.
        """
        sigma = self.random_levels(sources)
        if not self.num_classes:
            condition = None
        elif condition is not None and self.training and self.class_dropout:
            withheld = torch.rand(len(sources), device=sources.device) < self.class_dropout
            condition = condition.masked_fill(withheld, -1)
        level = sigma.reshape(-1, *[1] * (sources.ndim - 1))
        errors = self.denoise(sources + level * torch.randn_like(sources), sigma, condition) - sources
        return (errors.square() * (level**-2 + self.std**-2)).mean()

    def _check(self, noisy: Tensor, condition: Tensor | None) -> None:
        expected = self.shape if self.spatial == 2 else (self.shape[0], *noisy.shape[2:])
        if noisy.ndim != len(self.shape) + 1 or tuple(noisy.shape[1:]) != expected:
            raise LassError(
                f"This denoiser is for sources of shape {self.shape}, got {tuple(noisy.shape[1:])}: use sources of "
                "that shape, or train another denoiser."
            )
        if condition is None:
            if self.num_classes and not self.class_dropout:
                raise LassError(
                    "This denoiser needs the class of each source: give the classes (conditional=true in stage 4), or "
                    "train it with class_dropout above 0."
                )
        elif not self.num_classes:
            raise LassError(
                "This denoiser has no classes: give none (conditional=false in stage 4), or train one with num_classes."
            )
        elif len(condition):
            lowest = -1 if self.class_dropout else 0  # -1 is any class
            low, high = torch.stack([condition.min(), condition.max()]).tolist()
            if not lowest <= low <= high < self.num_classes:
                raise LassError(
                    f"The classes of sources must be 0…{self.num_classes - 1}, but there are {low}…{high}: give these, "
                    "or train a denoiser for all classes."
                )


def check_depths(widths: Sequence[int], num_blocks: Sequence[int]) -> None:
    """Raise LassError unless a U-Net can have these channels and residual blocks at its depths."""
    if not 0 < len(widths) == len(num_blocks) <= MAX_DEPTH:
        raise LassError(
            f"widths and num_blocks must be two lists of equal length, at most {MAX_DEPTH}, not {list(widths)} and "
            f"{list(num_blocks)}."
        )
    for width, number in zip(widths, num_blocks, strict=True):
        check_sizes(MAX_WIDTH, **{"each of widths": width})
        check_sizes(MAX_BLOCKS, **{"each of num_blocks": number})


class Network(nn.Module):
    """U-Net of patches, modulated by the logarithm of the noise level and the class."""

    def __init__(
        self,
        channels: int,
        spatial: int,
        patch: int,
        widths: list[int],
        num_blocks: list[int],
        kernel_size: int,
        stride: int,
        dropout: float,
        num_classes: int,
    ) -> None:
        super().__init__()
        layers = optional_package("azula.nn.layers", "azula", "diffusion")
        unet = optional_package("azula.nn.unet", "azula", "diffusion")
        num_features, num_values = 2 * widths[0], channels * patch**spatial
        self.level = nn.Sequential(layers.SineEncoding(num_features, omega=1e3), nn.Linear(num_features, num_features))
        self.classes = nn.Embedding(num_classes + 1, num_features) if num_classes else None  # index -1: any class
        self.to_patches = layers.Patchify([patch] * spatial)
        self.unet = unet.UNet(
            num_values,
            num_values,
            hid_channels=widths,
            hid_blocks=num_blocks,
            kernel_size=kernel_size,
            stride=stride,
            spatial=spatial,
            mod_features=num_features,
            dropout=dropout or None,
        )
        self.to_signal = layers.Unpatchify([patch] * spatial)
        self.patch = patch
        if spatial == 2:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs; 2 to 3 times as fast on a CPU

    def forward(self, noisy: Tensor, log_level: Tensor, condition: Tensor | None) -> Tensor:
        """Map scaled noisy sources (batch, channels, *space) to the same shape; sizes are padded to whole patches."""
        features = self.level(10 * log_level)
        if self.classes is not None:
            anything = torch.full((len(noisy),), -1, device=noisy.device)
            features = features + self.classes(
                (anything if condition is None else condition) % self.classes.num_embeddings
            )
        space = noisy.shape[2:]
        missing = [side for size in reversed(space) for side in (0, -size % self.patch)]
        patches = self.to_patches(F.pad(noisy, missing))
        if len(space) == 2:
            patches = patches.contiguous(memory_format=torch.channels_last)
        output = self.to_signal(self.unet(patches, F.silu(features)))
        return output[..., : space[0]] if len(space) == 1 else output[..., : space[0], : space[1]]
