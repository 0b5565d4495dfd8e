"""Memory-mapped cache of codes, so that each signal is encoded once instead of in every epoch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lass.artifacts import atomic_write
from lass.data.files import mapped_array
from lass.errors import LassError


class CodeSequences(NamedTuple):
    """A batch of encoded sources."""

    codes: Tensor  # (batch, time) long
    labels: Tensor  # (batch,) long


def write_codes(path: str | Path, batches: Iterable[CodeSequences]) -> None:
    """Store encoded sources as one int32 `.npy` array, (num_sources, 1 + time): the label, then the codes."""
    rows = [torch.cat([labels[:, None], codes], 1).cpu().numpy().astype(np.int32) for codes, labels in batches]
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.concatenate(rows))


class CodeShard(Dataset):
    """Memory-mapped dataset of the encoded sources in a file of `write_codes`, with batched access.

    Args:
        path: Path of the file.
        num_codes: Codebook size K, against which the codes are checked; None skips the check.

    Raises:
        LassError: if the file is not such an array, or holds a code outside 0…K-1 or a negative label.
    """

    def __init__(self, path: str | Path, num_codes: int | None = None) -> None:
        try:
            self.rows = mapped_array(path)
            shape = self.rows.shape
            if self.rows.dtype != np.int32 or len(shape) != 2 or shape[0] < 1 or shape[1] < 2:
                raise OSError(f"an array of {self.rows.dtype} with shape {shape}; expected rows of int32")
            if num_codes is not None:
                least, largest = int(self.rows.min()), int(self.rows[:, 1:].max())
                if least < 0 or largest >= num_codes:
                    raise OSError(f"numbers of {least}…{largest} where codes are 0…{num_codes - 1}")
        except OSError as error:
            raise LassError(f"{path} holds no codes ({error}): delete it, and it is made again.") from error

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> CodeSequences:
        """The sequences at `indices` as one batch."""
        rows = torch.from_numpy(self.rows[indices]).long()
        return CodeSequences(rows[:, 1:], rows[:, 0])
