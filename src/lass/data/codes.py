"""Memory-mapped shards of codes, so that a signal is encoded once and not in every epoch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lass.artifacts import written_whole
from lass.errors import LassError


class CodeSequences(NamedTuple):
    """A batch of encoded sources."""

    codes: Tensor  # (batch, time) long
    labels: Tensor  # (batch,) long


def write_codes(path: str | Path, batches: Iterable[CodeSequences]) -> None:
    """Store encoded sources as one `.npy` array (num_sources, 1 + time): the label, then the codes."""
    rows = [torch.cat([labels[:, None], codes], 1).cpu().numpy().astype(np.int32) for codes, labels in batches]
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.concatenate(rows))


class CodeShard(Dataset):
    """Encoded sources of one file of `write_codes`, memory-mapped, read a batch at a time.

    Args:
        path: of the file.
        num_codes: K of the codec, to check the codes against; None leaves that out.

    Raises:
        LassError: if the file is not such an array, or holds a code outside 0…K-1 or a negative label.
    """

    def __init__(self, path: str | Path, num_codes: int | None = None) -> None:
        try:
            self.rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise self._damaged(path, str(error)) from error
        if self.rows.ndim != 2 or self.rows.dtype != np.int32 or self.rows.shape[0] < 1 or self.rows.shape[1] < 2:
            raise self._damaged(path, f"{self.rows.dtype} of shape {self.rows.shape}")
        if num_codes is not None:
            least, largest = int(self.rows.min()), int(self.rows[:, 1:].max())
            if least < 0 or largest >= num_codes:
                raise self._damaged(path, f"numbers of {least}…{largest} where codes are 0…{num_codes - 1}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> CodeSequences:
        """The sequences of those numbers."""
        rows = torch.from_numpy(self.rows[indices]).long()
        return CodeSequences(rows[:, 1:], rows[:, 0])

    @staticmethod
    def _damaged(path: str | Path, reason: str) -> LassError:
        return LassError(f"{path} holds no codes ({reason}): delete it, and it is made again.")
