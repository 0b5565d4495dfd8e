"""Text files and arrays that others wrote: read whole, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from lass.errors import LassError


def read_text(path: str | Path, what: str, advice: str) -> str:
    """A text file in UTF-8, with or without a byte-order mark.

    Args:
        path: of the file.
        what: it should be, for the error.
        advice: end of the error: what is expected, or what to do.

    Raises:
        LassError: if it cannot be read, has another encoding, or holds NUL bytes.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "it is not in UTF-8"
    else:
        if "\0" not in text:
            return text
        reason = "it holds NUL bytes"
    raise LassError(f"{path} is no {what} that can be read ({reason}): {advice}.")


def mapped_array(path: str | Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """A NumPy array in a `.npy` file, memory-mapped: nothing that the header claims is allocated.

    Args:
        path: of the file.
        mode: read only, or copy on write.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: with the reason in one line, if it is damaged, or no array of numbers.
    """
    try:
        return np.lib.format.open_memmap(path, mode)
    except FileNotFoundError:
        raise
    except Exception as error:  # the header is parsed as Python literals, which fails in many ways
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
