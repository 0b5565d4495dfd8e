"""LassError, the exception for bad input; checks that raise it; and its conversion from file-system errors."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import cast

from safetensors import SafetensorError

#: Advice for each error number of the file system. Any other number is not reported as a LassError.
_ADVICE = dict.fromkeys(("ENOSPC", "EDQUOT", "EFBIG"), "make room there, or choose another folder")
_ADVICE |= dict.fromkeys(("EROFS", "EACCES", "EPERM"), "choose another folder, or change its permissions")
_ADVICE |= dict.fromkeys(("EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP"), "choose another folder")
_ADVICE |= dict.fromkeys(("EIO", "ENXIO", "ESTALE", "ENODEV"), "check the disk, or choose another folder")
ADVICE: dict[int, str] = {getattr(errno, name): advice for name, advice in _ADVICE.items() if hasattr(errno, name)}

#: Messages of PyTorch's zip writer after a failed write; they do not contain the error of the operating system.
TORCH_WRITER = re.compile(r"PytorchStreamWriter failed writing|inline_container\.cc|basic_ios::clear|iostream error")

LARGEST = 1e300  # limit of all settings, because an integer from a file may be too long to be converted or printed


class LassError(ValueError):
    """Raised for bad input, with a message of one sentence: what was expected, what was given, what to do.

    The `lass` command prints the message without a traceback and exits with status 1. In Python it is a `ValueError`.
    """


def check_number(
    name: str,
    value: object,
    *,
    at_least: int | float | None = None,
    above: int | float | None = None,
    at_most: int | float | None = None,
    below: int | float | None = None,
    whole: bool = False,
) -> None:
    """Raise LassError unless a setting is a finite number within its limits.

    Args:
        name: Name of the setting, as written by the user.
        value: Value of the setting. Booleans are not numbers.
        at_least, above: Inclusive or exclusive lower limit.
        at_most, below: Inclusive or exclusive upper limit.
        whole: Whether the value must be an integer.

    Example:
        >>> check_number("num_candidates", 0, at_least=1, whole=True)
        Traceback (most recent call last):
        lass.errors.LassError: num_candidates must be an integer, at least 1, not 0...
    """
    limits = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    expected = ["an integer" if whole else "a number"]
    given = {words: limit for words, limit in limits.items() if limit is not None}
    expected += [f"{words} {limit if isinstance(limit, int) else f'{limit:g}'}" for words, limit in given.items()]
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    number = cast(float, value) if is_real else math.nan
    is_number = (isinstance(value, int) or not whole) and -LARGEST <= number <= LARGEST
    if not (
        is_number
        and (at_least is None or number >= at_least)
        and (above is None or number > above)
        and (at_most is None or number <= at_most)
        and (below is None or number < below)
    ):
        is_long = isinstance(value, int) and abs(value) > LARGEST
        shown = "one of more than 300 digits" if is_long else f"{value!r:.200}"
        raise LassError(f"{name} must be {', '.join(expected)}, not {shown}.")


def check_sizes(most: int, **sizes: object) -> None:
    """Raise LassError unless all settings in `sizes` are integers from 1 to `most`."""
    for name, size in sizes.items():
        check_number(name, size, at_least=1, at_most=most, whole=True)


def check_flag(name: str, value: object) -> None:
    """Raise LassError unless a setting is True or False."""
    if not isinstance(value, bool):
        raise LassError(f"{name} must be true or false, not {value!r}.")


def path_component(name: object, source: str | Path) -> str:
    """Return `name` if it is valid as one component of a path on all operating systems.

    Args:
        name: Name from a file that is not trusted.
        source: Path of that file, for errors.

    Raises:
        LassError: if the name is empty, not text, longer than 100 characters, begins with a dot, or contains a path
            separator, a control character, or a character that Windows reserves.

    Example:
        >>> path_component("../../evil", "separator.json")
        Traceback (most recent call last):
        lass.errors.LassError: separator.json holds the name '../../evil', which cannot be the name of a file: ...
    """
    if not isinstance(name, str) or not re.fullmatch(r"""(?![. ])[^/\\:*?"<>|\x00-\x1f\x7f]{1,100}(?<![. ])""", name):
        raise LassError(
            f"{source} holds the name {name!r:.120}, which cannot be the name of a file: expected 1 to 100 characters, "
            'no path separators, none of : * ? " < > |, and no dot or space at either end.'
        )
    return name


def distinct_names(names: Sequence[str], num_sources: int) -> list[str]:
    """Return the names of sources, which become parts of file names and of the names of scores.

    Raises:
        LassError: if there is not a different name for each source, or one is no path component.
    """
    checked = [path_component(name, "source_names") for name in names]
    if len({*checked}) != num_sources or len(checked) != num_sources:
        raise LassError(f"Expected a different name for each of {num_sources} sources, got {checked}.")
    return checked


def disk_error(error: BaseException | None, path: str | Path) -> LassError | None:
    """Convert a file-system error to a LassError; return None for any other exception.

    Args:
        error: Exception of Python, of safetensors or of `torch.save`, or one that was raised from it.
        path: Path that was being written, for errors without a path.
    """
    torch_failed = False
    while error is not None:
        if isinstance(error, LassError):
            return None
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, SafetensorError) and (found := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(found[1])
        if number is not None and number in ADVICE:
            named = getattr(error, "filename2", None) or getattr(error, "filename", None)
            reason = os.strerror(number)
            if number in (errno.EEXIST, errno.ENOTDIR):
                reason = "a file is where a folder should be"
            return LassError(
                f"{os.fsdecode(named) if isinstance(named, (str, bytes, Path)) else path} cannot be read or "
                f"written ({reason}): {ADVICE[number]}."
            )
        torch_failed |= isinstance(error, RuntimeError) and TORCH_WRITER.search(str(error)) is not None
        # Follow `__context__` for torch's writer only: elsewhere an exception during handling is a separate mistake.
        error = error.__cause__ or (error.__context__ if torch_failed else None)
    if torch_failed:
        return LassError(f"{path} could not be written whole: make room there, or choose another folder.")
    return None
