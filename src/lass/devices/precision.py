"""Float32 for everything but the priors' networks, whatever precision the caller computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device | str) -> Iterator[None]:
    """Switch autocast off and make float32 the default data type.

    Lightning's `bf16-mixed` predicts under autocast, its `bf16-true` and `64-true` with another default data type.
    Log probabilities of sequences reach hundreds of nats, of which bfloat16 keeps no decimals.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)
