"""Conversion between the row-by-row order of a grid and the order in which a prior reads its codes."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from lass.priors.protocol import Prior, reading_order


def to_reading_order(x: Shaped[Tensor, "*batch T"], prior: Prior) -> Shaped[Tensor, "*batch T"]:
    """Permute codes (or latents) of a grid from row by row to the prior's reading order."""
    order = reading_order(prior)
    return x if order is None else x[..., torch.as_tensor(order, device=x.device)]


def from_reading_order(x: Shaped[Tensor, "*batch T"], prior: Prior) -> Shaped[Tensor, "*batch T"]:
    """Inverse of `to_reading_order`."""
    order = reading_order(prior)
    return x if order is None else x[..., torch.as_tensor(order, device=x.device).argsort()]
