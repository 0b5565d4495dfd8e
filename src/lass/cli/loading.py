"""Loading of a separator for a command, on the device that its user named."""

from __future__ import annotations

from pathlib import Path

from lass.errors import LassError
from lass.separation import Separator


def load_separator(folder: str | Path, device: str, num_sources: int | None = None) -> Separator:
    """Load a separator and move it to a device.

    Args:
        folder: Folder or name, see `Separator.from_pretrained`.
        device: Value of `--device`.
        num_sources: Number of sources; default that of the separator.

    Raises:
        LassError: if it cannot be loaded, or the device cannot be used.
    """
    separator = Separator.from_pretrained(folder, num_sources)
    try:
        return separator.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, with several lines of text
        reason = str(error).splitlines()[0]
        raise LassError(f"The device {device!r} cannot be used ({reason}): leave out --device.") from error
