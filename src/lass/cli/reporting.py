"""How an exception that ends the command is reported: one sentence, or the way to continue after Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator

from lass.errors import LassError, disk_error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that led to it."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        link = link.__cause__ or link.__context__


def is_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C ended the program; Lightning makes a SystemExit of it."""
    if not isinstance(error, (KeyboardInterrupt, SystemExit)):
        return False
    return any(isinstance(link, KeyboardInterrupt) for link in _chain(error))


def sentence_for(error: BaseException) -> str | None:
    """The sentence for bad input or a failure of the disk; None for any other exception."""
    if isinstance(error, SystemExit):
        return None
    # jsonargparse wraps the errors of constructors in its own.
    for link in _chain(error):
        if isinstance(link, LassError):
            # One from a process that loads data comes with that process's traceback in front of its sentence.
            return one_line(str(link).rpartition(f"{LassError.__module__}.{LassError.__name__}: ")[2])
    failure = disk_error(error, "A file")
    return None if failure is None else str(failure)


def one_line(text: object) -> str:
    """Text with every run of white space as one space."""
    return " ".join(str(text).split())
