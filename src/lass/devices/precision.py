"""Context manager for float32 computation, independent of the caller's precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device | str) -> Iterator[None]:
    """Disable autocast on a device and make float32 the default data type.

    Lightning's `bf16-mixed` enables autocast, and its `bf16-true` and `64-true` set another default data type. Log
    probabilities of sequences reach hundreds of nats, for which bfloat16 has no decimal places.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)
