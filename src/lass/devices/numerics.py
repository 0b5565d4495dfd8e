"""Device-dependent numerics: the widest floating-point type, and a deterministic cumulative sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import threshold

WITHOUT_FLOAT64 = {"mps"}  # types of devices that do not support float64
LOWEST_EXPONENT, SMALLEST_EXP = -87.0, 2.0**-125  # exp(−87) is less than 2⁻¹²⁵, and no denormal float32


def widest_float(device: torch.device | str) -> torch.dtype:
    """Return the widest floating-point type of a device: float64, or float32 on Apple GPUs (MPS)."""
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64


def exp_(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Replace values by their exponential, or by 0 where it is less than 2⁻¹²⁵, and return them.

    Denormal results take torch's exponential on a CPU twenty times as long as others.
    """
    return threshold(values.clamp_(min=LOWEST_EXPONENT).exp_(), SMALLEST_EXP, 0.0, inplace=True)


def running_sum(values: Float[Tensor, "*batch options"]) -> Float[Tensor, "*batch options"]:
    """Compute the cumulative sum over the last dimension, deterministically if torch is set to be deterministic.

    torch has no deterministic cumulative sum on CUDA. After `torch.use_deterministic_algorithms(True)` it is therefore
    computed on the CPU, which is slower.
    """
    if values.device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return values.cpu().cumsum(-1).to(values.device)
    return values.cumsum(-1)
