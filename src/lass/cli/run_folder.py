"""A lock on the folder of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock
from pytorch_lightning.utilities import rank_zero_info

from lass.cli.reporting import one_line
from lass.errors import LassError, disk_error

LOCK_FILE = ".lass.lock"  # in a run's folder; it stays there, and only a lock that a process holds on it matters


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let this process alone run in a folder: two runs that write the same files would leave a blend of both.

    The operating system lets go of the lock when the process ends, however it ends.

    Raises:
        LassError: if another process has a run in this folder.
    """
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise LassError(
            f"Another run is going on in {folder}: wait until it ends, or choose another folder with "
            "--trainer.default_root_dir."
        ) from error
    except (OSError, NotImplementedError) as error:
        if failure := disk_error(error, folder):
            raise failure from error
        rank_zero_info(f"{folder} cannot be locked ({one_line(error)}): start no second run there.")
    try:
        yield
    finally:
        lock.release()
