"""What the methods without training have in common: checks of mixtures, mixing weights and groups of sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lass.data.mixing import check_weights
from lass.errors import LassError


def checked_mixtures(mixtures: Tensor, num_dims: int, shape: str) -> Tensor:
    """Validate a batch of mixtures and return it as float32.

    Args:
        mixtures: Floating-point tensor with `num_dims` dimensions, none of them empty.
        num_dims: Required number of dimensions.
        shape: The required shape in words, for the error message.

    Raises:
        LassError: if the number of dimensions is another one, the mixtures are empty, no floating-point numbers, or not
            finite.
    """
    if mixtures.dim() != num_dims or not mixtures.numel():
        raise LassError(f"Expected mixtures of shape {shape}, none of them 0, got {tuple(mixtures.shape)}.")
    if not mixtures.is_floating_point():
        raise LassError(f"The mixtures hold {mixtures.dtype}: expected floating-point numbers.")
    if not mixtures.isfinite().all():
        raise LassError("The mixtures hold NaN or infinite values: expected finite numbers only.")
    return mixtures.to(torch.float32)


def checked_conditions(
    conditions: Tensor | None, num_mixtures: int, num_sources: int, device: torch.device
) -> Int[Tensor, "mixtures sources"] | None:
    """Validate the classes of the sources and move them to a device; None remains None.

    Raises:
        LassError: if there is not one whole number for each source of each mixture.
    """
    if conditions is None:
        return None
    expected = (num_mixtures, num_sources)
    if tuple(conditions.shape) != expected or conditions.is_floating_point() or conditions.is_complex():
        raise LassError(
            f"Expected conditions of shape {expected}, one class (a whole number) per source, got "
            f"{tuple(conditions.shape)} of {conditions.dtype}."
        )
    return conditions.to(device, torch.long)


def weights_or_mean(weights: Sequence[float] | None, num_sources: int) -> list[float]:
    """Return the weight of each source in a mixture, 1 / num_sources each if None; errors as in `check_weights`."""
    if weights is None:
        return [1 / num_sources] * num_sources
    check_weights(weights, num_sources)
    return list(weights)


def fixed_order(num_mixtures: int, num_sources: int) -> Int[Tensor, "mixtures sources"]:
    """Groups of exchangeable sources, see `Separator.exchangeable`, of a method that assigns every estimate itself."""
    return torch.arange(num_sources).expand(num_mixtures, -1)
