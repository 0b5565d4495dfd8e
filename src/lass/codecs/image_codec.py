"""Base class of image codecs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lass.codecs.vq_codec import MAX_CODES, VQCodec
from lass.errors import LassError, check_sizes


class ImageVQCodec(VQCodec):
    """Base class of codecs for images in [0, 1] of one fixed size.

    Args:
        image_shape: Shape of the images, (channels, height, width).
        num_codes: Codebook size K.
        reduction: Factor between image and code grid: each code covers reduction × reduction pixels.

    Raises:
        LassError: if height or width is not a multiple of `reduction`, or a size is out of range.
    """

    signal_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(self, image_shape: Sequence[int], num_codes: int, reduction: int) -> None:
        super().__init__()
        channels, *space = self.image_shape = tuple(image_shape)
        check_sizes(2**10, channels=channels)
        for size in space:
            check_sizes(2**14, **{"height and width": size})
        check_sizes(MAX_CODES, num_codes=num_codes)
        if len(space) != 2 or any(size % reduction or size <= 0 for size in space):
            raise LassError(
                f"image_shape must be (channels, height, width) in multiples of {reduction}, not {self.image_shape}."
            )
        self.num_codes, self.grid = num_codes, tuple(size // reduction for size in space)

    def encode_latents(
        self, signal: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """Encode images into unquantised latents.

        Raises:
            LassError: if the images do not have `image_shape`.
        """
        if tuple(signal.shape[1:]) != self.image_shape:
            expected, received = ("×".join(map(str, shape)) for shape in (self.image_shape, signal.shape[1:]))
            raise LassError(f"This codec is for images of {expected}, but got {received}: resize the images.")
        return self.encode_images(signal)

    def encode_images(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        """Encode images of `image_shape` into unquantised latents."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_images()")
