"""Differences between devices: the widest floating-point type, and a deterministic cumulative sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}  # types of devices that hold no tensor of that type


def widest_float(device: torch.device | str) -> torch.dtype:
    """The most precise floating-point type of a device: float64, or float32 on Apple's GPUs."""
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64


def running_sum(values: Float[Tensor, "*batch options"]) -> Float[Tensor, "*batch options"]:
    """Cumulative sum over the last dimension.

    On CUDA torch has no deterministic one. After `torch.use_deterministic_algorithms(True)` it is computed on the CPU,
    which is slower and always gives the same.
    """
    if values.device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return values.cpu().cumsum(-1).to(values.device)
    return values.cumsum(-1)
