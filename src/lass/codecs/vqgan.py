"""VQ-GAN of "Taming Transformers" as a codec: residual blocks with group norm, attention at some resolutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import register
from lass.codecs.image_codec import ImageVQCodec
from lass.codecs.quantizer import ProjectionQuantizer, VectorQuantizer
from lass.errors import LassError

NUM_GROUPS = 32  # groups of each group norm


class NormedBlock(nn.Module):
    """Residual block x + f(x), where f applies (group norm, swish, 3×3 convolution) twice.

    If the number of channels changes, x is replaced by its 1×1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(in_channels), _norm(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))


class SpatialAttention(nn.Module):
    """Residual single-head self-attention over all spatial positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.to_qkv, self.to_out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.to_out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))


class Halving(nn.Module):
    """Downsampling by 2: a 3×3 convolution with stride 2, padded below and to the right, or 2×2 average pooling."""

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, channels, height / 2, width / 2)."""
        return F.avg_pool2d(x, 2) if self.conv is None else self.conv(F.pad(x, (0, 1, 0, 1)))


class Doubling(nn.Module):
    """Upsampling by 2 with nearest neighbours, followed by a 3×3 convolution if `learned`."""

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, channels, 2 · height, 2 · width)."""
        return self.conv(F.interpolate(x, scale_factor=2.0))


@register
class VQGAN(ImageVQCodec):
    """VQ-GAN for images in [0, 1], for inference only; created by `lass import taming`. See `ImageVQCodec`.

    Args:
        image_shape: Shape of the images, (channels, height, width); fixes the grid of codes, although the convolutions
            accept other sizes.
        num_codes: Codebook size K.
        latent_dim: Channels of the latents and of the codebook vectors.
        width: Channels at full resolution.
        width_multipliers: Channels at each resolution as multiples of `width`; each resolution is half the previous.
        num_residual_blocks: Number of residual blocks per resolution in the encoder; the decoder has one more.
        attention_at: Heights of the feature maps, in pixels, that are followed by attention.
        hidden_dim: Channels between encoder and latents, and between latents and decoder; default `latent_dim`.
        learned_resampling: Resample with convolutions instead of average pooling and nearest neighbours only.
        projected: Take the code from the argmax of K learned projections (`ProjectionQuantizer`) instead of the nearest
            codebook vector.
        middle_attention: Add attention between the two middle blocks of encoder and decoder.

    Raises:
        LassError: if height or width is not divisible by 2^(len(width_multipliers) - 1), a size is out of range, or a
            number of channels is not a multiple of 32.

    Source: Esser, Rombach and Ommer 2021 (arXiv:2012.09841), appendix "VQGAN architecture"; `projected`: Jang et al.
    2017 (arXiv:1611.01144).
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 256, 256),
        num_codes: int = 1024,
        latent_dim: int = 256,
        width: int = 128,
        width_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_residual_blocks: int = 2,
        attention_at: Sequence[int] = (16,),
        hidden_dim: int | None = None,
        learned_resampling: bool = True,
        projected: bool = False,
        middle_attention: bool = True,
    ) -> None:
        super().__init__(image_shape, num_codes, 2 ** (len(width_multipliers) - 1))
        hidden_dim = latent_dim if hidden_dim is None else hidden_dim
        self.config = {
            "image_shape": list(image_shape),
            "num_codes": num_codes,
            "latent_dim": latent_dim,
            "width": width,
            "width_multipliers": list(width_multipliers),
            "num_residual_blocks": num_residual_blocks,
            "attention_at": list(attention_at),
            "hidden_dim": hidden_dim,
            "learned_resampling": learned_resampling,
            "projected": projected,
            "middle_attention": middle_attention,
        }
        self.projected = projected
        channels, height, _ = image_shape
        if any(width * multiplier % NUM_GROUPS for multiplier in width_multipliers):
            raise LassError(f"width times each of width_multipliers must be a multiple of {NUM_GROUPS}.")
        sizes = [(width * multiplier, height >> level) for level, multiplier in enumerate(width_multipliers)]
        deepest = before = sizes[-1][0]

        # Layer names encode level and position, so that the importer can map the names of a checkpoint to them.
        decoder: Layers = [("first", nn.Conv2d(hidden_dim, deepest, 3, padding=1)), *_middle(deepest, middle_attention)]
        for level, (here, size) in reversed(list(enumerate(sizes))):
            decoder += _level(f"up_{level}", before, here, num_residual_blocks + 1, size in attention_at)
            if level:
                decoder += [(f"up_{level}_resample", Doubling(here, learned_resampling))]
            before = here
        self.decoder = nn.Sequential(OrderedDict([*decoder, *_last(before, channels)]))
        encoder: Layers = [("first", nn.Conv2d(channels, width, 3, padding=1))]
        before = width
        for level, (here, size) in enumerate(sizes):
            encoder += _level(f"down_{level}", before, here, num_residual_blocks, size in attention_at)
            if level < len(sizes) - 1:
                encoder += [(f"down_{level}_resample", Halving(here, learned_resampling))]
            before = here
        self.encoder = nn.Sequential(
            OrderedDict([*encoder, *_middle(deepest, middle_attention), *_last(deepest, hidden_dim)])
        )
        self.to_latents = nn.Conv2d(hidden_dim, latent_dim, 1)
        self.from_latents = nn.Conv2d(latent_dim, hidden_dim, 1)
        self.quantizer = (ProjectionQuantizer if projected else VectorQuantizer)(num_codes, latent_dim)

    def encode_images(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """See ImageVQCodec."""
        return self.to_latents(self.encoder(2 * images - 1))

    def decode_latents(
        self, latents: Float[Tensor, "batch dim rows columns"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Decode latents into images; values may exceed [0, 1], because the decoder has no output activation."""
        return (self.decoder(self.from_latents(latents)) + 1) / 2


Layers = list[tuple[str, nn.Module]]


def _level(name: str, before: int, here: int, num_blocks: int, attention: bool) -> Layers:
    layers: Layers = []
    for i in range(num_blocks):
        layers += [(f"{name}_block_{i}", NormedBlock(before if i == 0 else here, here))]
        if attention:
            layers += [(f"{name}_attention_{i}", SpatialAttention(here))]
    return layers


def _middle(channels: int, attention: bool) -> Layers:
    blocks: Layers = [(f"middle_block_{i}", NormedBlock(channels, channels)) for i in (1, 2)]
    return [blocks[0], *([("middle_attention_1", SpatialAttention(channels))] if attention else []), blocks[1]]


def _last(before: int, channels: int) -> Layers:
    return [("norm", _norm(before)), ("swish", nn.SiLU()), ("last", nn.Conv2d(before, channels, 3, padding=1))]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NUM_GROUPS, channels, eps=1e-6)
