"""The exception for bad input, the checks that raise it, and failures of the file system as such errors."""

from __future__ import annotations

import errno
import math
import os
import re
from numbers import Real
from pathlib import Path
from typing import cast

from safetensors import SafetensorError

#: What to do about an error number; others are no matter of the disk, and may be mistakes of the program.
_ADVICE = dict.fromkeys(("ENOSPC", "EDQUOT", "EFBIG"), "make room there, or choose another folder")
_ADVICE |= dict.fromkeys(("EROFS", "EACCES", "EPERM"), "choose another folder, or change its permissions")
_ADVICE |= dict.fromkeys(("EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP"), "choose another folder")
_ADVICE |= dict.fromkeys(("EIO", "ENXIO", "ESTALE", "ENODEV"), "check the disk, or choose another folder")
ADVICE: dict[int, str] = {getattr(errno, name): advice for name, advice in _ADVICE.items() if hasattr(errno, name)}

#: What PyTorch's writer of zip files says when it could not write; the system's own reason is lost in it.
TORCH_WRITER = re.compile(r"PytorchStreamWriter failed writing|inline_container\.cc|basic_ios::clear|iostream error")

LARGEST = 1e300  # no setting is larger; an integer in a file may be too long to be converted or printed


class LassError(ValueError):
    """Bad input, told in one sentence: what was expected, what came, what to do.

    The command `lass` prints the sentence without a traceback and exits with status 1; in Python it is a `ValueError`.
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
        name: of the setting, as the user writes it.
        value: that was given.
        at_least, above: lower limit, included or excluded.
        at_most, below: upper limit, included or excluded.
        whole: whether it must be an integer. True and False are never numbers.

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
    """Raise LassError unless all of these settings are integers from 1 to `most`."""
    for name, size in sizes.items():
        check_number(name, size, at_least=1, at_most=most, whole=True)


def check_flag(name: str, value: object) -> None:
    """Raise LassError unless a setting is True or False."""
    if not isinstance(value, bool):
        raise LassError(f"{name} must be true or false, not {value!r}.")


def path_component(name: object, source: str | Path) -> str:
    """`name` if it can be one component of a path on any system.

    Args:
        name: read from a file that may come from a stranger.
        source: the file, for the error.

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
        # Any other exception while one of the disk was handled is a mistake of its own.
        error = error.__cause__ or (error.__context__ if torch_failed else None)
    if torch_failed:
        return LassError(f"{path} could not be written whole: make room there, or choose another folder.")
    return None
