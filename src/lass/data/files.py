"""Readers of untrusted text files and NumPy arrays; errors name the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from lass.errors import LassError


def read_text(path: str | Path, what: str, advice: str) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark.

    Args:
        path: Path of the file.
        what: Expected kind of file, for the error message.
        advice: End of the error message: what is expected, or what to do.

    Raises:
        LassError: if the file cannot be read, has another encoding, or holds NUL bytes.
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
    """Memory-map the NumPy array of a `.npy` file; a false size in its header allocates no memory.

    Args:
        path: Path of the file.
        mode: "r" (read only) or "c" (copy on write).

    Raises:
        FileNotFoundError: if the file does not exist.
        OSError: if the file is damaged or does not hold an array of numbers; the reason is one line.
    """
    try:
        return np.lib.format.open_memmap(path, mode)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy parses the header as a Python literal, which raises many kinds of exceptions
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
