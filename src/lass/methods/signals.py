"""What methods have in common: checks of mixtures, classes, mixing weights and indices, and groups of sources."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lass.data.mixing import check_weights
from lass.errors import LassError, check_number
from lass.samplers.generators import MixtureGenerators


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
    conditions: Tensor, num_mixtures: int, num_sources: int, device: torch.device
) -> Int[Tensor, "mixtures sources"]:
    """Validate the classes of the sources and move them to a device.

    Raises:
        LassError: if there is not one whole number for each source of each mixture.
    """
    expected = (num_mixtures, num_sources)
    if tuple(conditions.shape) != expected or conditions.is_floating_point() or conditions.is_complex():
        raise LassError(
            f"Expected conditions of shape {expected}, one class (a whole number) per source, got "
            f"{tuple(conditions.shape)} of {conditions.dtype}."
        )
    return conditions.to(device, torch.long)


def generators_of(mixtures: Tensor, seed: int, indices: Sequence[int] | None) -> MixtureGenerators:
    """Random numbers of each mixture of a batch, a function of (seed, index).

    Args:
        mixtures: Mixtures, the first axis of which is the batch; the numbers are on their device.
        seed: Seed of the run.
        indices: Index of each mixture; None for 0, 1, ….

    Raises:
        LassError: if the seed is negative, or there is not one index for each mixture.
    """
    check_number("seed", seed, at_least=0, whole=True)
    chosen = list(range(len(mixtures)) if indices is None else indices)
    if len(chosen) != len(mixtures):
        raise LassError(f"Expected one index for each of {len(mixtures)} mixtures, got {len(chosen)}.")
    return MixtureGenerators(seed, chosen, mixtures.device)


def weights_or_mean(weights: Sequence[float] | None, num_sources: int) -> list[float]:
    """Return the weight of each source in a mixture, 1 / num_sources each if None; errors as in `check_weights`."""
    if weights is None:
        return [1 / num_sources] * num_sources
    check_weights(weights, num_sources)
    return list(weights)


def fixed_order(num_mixtures: int, num_sources: int) -> Int[Tensor, "mixtures sources"]:
    """Groups of exchangeable sources, see `Separator.exchangeable`, of a method that assigns every estimate itself."""
    return torch.arange(num_sources).expand(num_mixtures, -1)
