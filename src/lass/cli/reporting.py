"""Convert exceptions that end a command to one sentence for the user."""

from __future__ import annotations

from collections.abc import Iterator

from lass.errors import LassError, disk_error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and its chain of causes."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        link = link.__cause__ or link.__context__


def is_interruption(error: BaseException) -> bool:
    """Whether an exception was caused by Ctrl-C, directly or as the SystemExit that Lightning raises for it."""
    if not isinstance(error, (KeyboardInterrupt, SystemExit)):
        return False
    return any(isinstance(link, KeyboardInterrupt) for link in _chain(error))


def sentence_for(error: BaseException) -> str | None:
    """Return the sentence for bad input or a file-system error, and None for any other exception."""
    if isinstance(error, SystemExit):
        return None
    # The chain is searched because jsonargparse wraps the errors of constructors.
    for link in _chain(error):
        if isinstance(link, LassError):
            # An error from a data-loading worker has the worker's traceback before its sentence.
            return one_line(str(link).rpartition(f"{LassError.__module__}.{LassError.__name__}: ")[2])
    failure = disk_error(error, "A file")
    return None if failure is None else str(failure)


def one_line(text: object) -> str:
    """Collapse every run of white space in a text to one space."""
    return " ".join(str(text).split())
