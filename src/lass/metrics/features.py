"""Small image feature network, for Fréchet distances without Inception's weights."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lass.artifacts import Artifact, register
from lass.errors import LassError, check_sizes

NUM_GROUPS = 8  # groups of each group norm


@register
class ImageFeatures(Artifact):
    """Convolutional network that maps images of any size to feature vectors.

    It consists of three stages of a convolution and a stride-2 convolution, the mean over positions, and a linear
    layer. It is trained without labels (`lass.tasks.FeatureTraining`).

    Args:
        num_features: Length of the feature vectors.
        width: Channels of the first stage, a multiple of 8; the next stages have two and four times as many.

    Raises:
        LassError: if `width` is not a multiple of 8, or a size is out of range.
    """

    kind = "features"

    def __init__(self, num_features: int = 64, width: int = 32) -> None:
        super().__init__()
        check_sizes(2**16, num_features=num_features, width=width)
        if width % NUM_GROUPS:
            raise LassError(f"The width must be a multiple of {NUM_GROUPS}, not {width}.")
        self.config = {"num_features": num_features, "width": width}
        self.num_features = num_features
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(NUM_GROUPS, after), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, stride=2, padding=1), nn.GroupNorm(NUM_GROUPS, after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.to_features = nn.Linear(4 * width, num_features)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch num_features"]:
        """Features of images in [0, 1] with 1 or 3 channels."""
        return self.to_features(self.body(in_colour(images) - 0.5).mean((2, 3)))


def in_colour(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Expand images of 1 channel to 3 equal channels; images of 3 channels are unchanged."""
    return images.expand(-1, 3, -1, -1)
