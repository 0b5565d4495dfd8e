"""Network that separates images by masks, trained on mixtures and their sources."""

# M mixtures, S sources

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import Artifact, fingerprint, load_artifact, register
from lass.data.module import MAX_SOURCES
from lass.data.signals import HasSampleRate
from lass.denoisers.unet import check_depths
from lass.devices.precision import full_precision
from lass.errors import LassError, check_number, check_sizes
from lass.methods.signals import checked_mixtures
from lass.optional import optional_package
from lass.separation.result import SeparationResult

MAX_WIDTH = 2**14  # limit of channels from a file
PATCH = 2  # side of the patches of pixels that become the channels of one position of the network


@register
class MaskUNet(Artifact):
    """Separates mixtures, the means of S images, by the masks that a U-Net gives: estimates are S times mask × mixture.

    The masks of each pixel are positive with sum 1, so the estimates mix into the mixture.
    `lass.tasks.ImageSupervisedTraining` trains the network. The order of the estimates is not determined.

    Args:
        shape: Shape of an image, (channels, height, width); the sizes must be even.
        num_sources: Number S of sources.
        widths: Channels at each depth of the U-Net.
        num_blocks: Residual blocks at each depth, on the way down and on the way up.

    Raises:
        LassError: if a setting is out of range, or azula is not installed.

    Source: Halperin et al. 2019 (arXiv:1811.12739), the supervised network that Neural Egg Separation is compared with,
    here with one mask for each source and without their classes; the U-Net is that of `lass.denoisers.UNetDenoiser`.
    Method NES in the text of LASS (arXiv:2301.08562).
    """

    kind = "network"

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        num_sources: int = 2,
        widths: Sequence[int] = (48, 96),
        num_blocks: Sequence[int] = (2, 2),
    ) -> None:
        super().__init__()
        unet = optional_package("azula.nn.unet", "azula", "diffusion")
        layers = optional_package("azula.nn.layers", "azula", "diffusion")
        if len(shape) != 3 or any(size % PATCH for size in shape[1:]):
            raise LassError(f"shape must be (channels, height, width) with even sizes, not {tuple(shape)}.")
        check_sizes(MAX_WIDTH, **{"channels of shape": shape[0]})
        check_number("num_sources", num_sources, at_least=2, at_most=MAX_SOURCES, whole=True)
        check_depths(widths, num_blocks)
        self.image_shape, self.num_sources = tuple(shape), num_sources
        self.config = {
            "shape": list(shape),
            "num_sources": num_sources,
            "widths": list(widths),
            "num_blocks": list(num_blocks),
        }
        values = shape[0] * PATCH**2
        self.network = nn.Sequential(
            layers.Patchify([PATCH, PATCH]),
            unet.UNet(values, num_sources * values, hid_channels=list(widths), hid_blocks=list(num_blocks)),
            layers.Unpatchify([PATCH, PATCH]),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MaskUNet:
        """Load a trained network from its folder; see `lass.artifacts.load_artifact`."""
        return cast(MaskUNet, load_artifact(folder, cls.kind))

    def forward(
        self, mixtures: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch {self.num_sources} channels height width"]:
        """Estimates of the sources.

        Raises:
            LassError: if the mixtures have another shape than `image_shape`.
        """
        if tuple(mixtures.shape[1:]) != self.image_shape:
            raise LassError(
                f"The network is for images of shape {self.image_shape}, got {tuple(mixtures.shape[1:])}: use images "
                "of that shape, or train a network for these."
            )
        masks = self.network(mixtures).unflatten(1, (self.num_sources, -1)).softmax(1)
        return self.num_sources * masks * mixtures[:, None]

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

        Args:
            mixtures: (M, channels, height, width).
            conditions, seed, indices: Not used: nothing is random.

        Returns:
            Result with estimates (M, S, channels, height, width).

        Raises:
            LassError: if the mixtures have another shape than `image_shape`.
        """
        mixtures = checked_mixtures(mixtures, 4, "(mixtures, channels, height, width)")
        with full_precision(mixtures.device):
            return SeparationResult(self(mixtures))

    def check_data(self, data: object) -> None:
        """Raise LassError if a data module has audio, another number of sources, or mixtures that are not means."""
        if isinstance(data, HasSampleRate):
            raise LassError(f"{type(self).__name__} separates images, but {type(data).__name__} has audio.")
        weights, number = getattr(data, "weights", None), getattr(data, "num_sources", self.num_sources)
        if number != self.num_sources or weights not in (None, [1 / number] * number):
            raise LassError(
                f"The network is for means of {self.num_sources} sources, but the data has {number} with weights = "
                f"{weights}: set --data.num_sources and leave out --data.weights, or train a network for this data."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """All settings on which estimates depend; see `lass.methods.protocol.ConfiguredMethod`."""
        return self.config

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of the network; see `lass.methods.protocol.FittedMethod`."""
        return {"network": fingerprint(self)}
