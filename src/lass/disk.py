"""Failures of the file system as one sentence: a full disk, a read-only folder, a file in place of a folder."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from safetensors import SafetensorError

from lass.errors import LassError

#: What to do about an error number; others are no matter of the disk, and may be mistakes of the program.
ADVICE = dict.fromkeys(("ENOSPC", "EDQUOT", "EFBIG"), "make room there, or choose another folder")
ADVICE |= dict.fromkeys(("EROFS", "EACCES", "EPERM"), "choose another folder, or change its permissions")
ADVICE |= dict.fromkeys(("EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP"), "choose another folder")
ADVICE |= dict.fromkeys(("EIO", "ENXIO", "ESTALE", "ENODEV"), "check the disk, or choose another folder")
ADVICE = {getattr(errno, name): advice for name, advice in ADVICE.items() if hasattr(errno, name)}

#: What PyTorch's writer of zip files says when it could not write; the system's own reason is lost in it.
TORCH_WRITER = re.compile(r"PytorchStreamWriter failed writing|inline_container\.cc|basic_ios::clear|iostream error")


def disk_error(error: BaseException | None, path: str | Path) -> LassError | None:
    """The sentence for an exception of the file system, or None if it is another one.

    Args:
        error: of Python, of safetensors or of `torch.save`, or one that such an error led to.
        path: what was being written, for errors that do not say it.
    """
    torch_failed = False
    while error is not None:
        if isinstance(error, LassError):
            return None
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, SafetensorError) and (found := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(found[1])
        if number in ADVICE:
            named = getattr(error, "filename2", None) or getattr(error, "filename", None)
            reason = os.strerror(number)
            if number in (errno.EEXIST, errno.ENOTDIR):
                reason = "a file is where a folder should be"
            return LassError(
                f"{os.fsdecode(named) if isinstance(named, (str, bytes, Path)) else path} cannot be read or "
                f"written ({reason}): {ADVICE[number]}."
            )
        torch_failed |= isinstance(error, RuntimeError) and TORCH_WRITER.search(str(error)) is not None
        # Any other exception while one of the disk was handled is a mistake of its own.
        error = error.__cause__ or (error.__context__ if torch_failed else None)
    if torch_failed:
        return LassError(f"{path} could not be written whole: make room there, or choose another folder.")
    return None
