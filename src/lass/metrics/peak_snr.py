"""Peak signal-to-noise ratio."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def psnr(
    estimate: Float[Tensor, "batch *shape"], target: Float[Tensor, "batch *shape"], data_range: float = 1.0
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio of each item, in dB: 10 log10(data_range² / mean squared error).

    Args:
        estimate: Estimates, (batch, ...).
        target: Targets, shaped like `estimate`.
        data_range: Largest minus smallest possible value.

    Returns:
        PSNR in dB, (batch,); infinite where estimate and target are equal.

    Example:
        >>> psnr(torch.tensor([[0.0, 0.1]]), torch.tensor([[0.0, 0.0]]))
        tensor([23.0103])
    """
    error = (estimate - target).square().flatten(1).mean(1)
    return 10 * (data_range**2 / error).log10()
