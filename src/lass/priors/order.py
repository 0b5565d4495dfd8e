"""Conversion between the row-by-row order of a grid and the order in which a prior reads its codes."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from lass.priors.protocol import Prior


def to_reading_order(x: Shaped[Tensor, "*batch T"], prior: Prior) -> Shaped[Tensor, "*batch T"]:
    """Permute codes (or latents) of a grid from row-by-row order to the prior's `order`, if it has one."""
    order = getattr(prior, "order", None)
    return x if order is None else x[..., torch.as_tensor(order, device=x.device)]


def from_reading_order(x: Shaped[Tensor, "*batch T"], prior: Prior) -> Shaped[Tensor, "*batch T"]:
    """Invert `to_reading_order`: permute to row-by-row order."""
    order = getattr(prior, "order", None)
    return x if order is None else x[..., torch.as_tensor(order, device=x.device).argsort()]
