"""The one exception for bad input, and the checks that raise it."""

from __future__ import annotations

import re
from numbers import Real
from pathlib import Path

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
    is_number = is_real and (isinstance(value, int) or not whole) and -LARGEST <= value <= LARGEST
    if not (
        is_number
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
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
