"""The order in which a prior reads the codes of a grid."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from lass.priors.protocol import Prior


def to_reading_order(x: Shaped[Tensor, "*batch T"], prior: Prior) -> Shaped[Tensor, "*batch T"]:
    """Codes (or latents) of a grid, row by row, as the prior reads them: in its `order`, where it has one."""
    order = getattr(prior, "order", None)
    return x if order is None else x[..., torch.as_tensor(order, device=x.device)]


def from_reading_order(x: Shaped[Tensor, "*batch T"], prior: Prior) -> Shaped[Tensor, "*batch T"]:
    """The way back: row by row."""
    order = getattr(prior, "order", None)
    return x if order is None else x[..., torch.as_tensor(order, device=x.device).argsort()]
