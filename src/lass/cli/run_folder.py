"""Lock on the folder of a run, against concurrent runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock
from pytorch_lightning.utilities import rank_zero_info

from lass.cli.reporting import one_line
from lass.errors import LassError, disk_error

LOCK_FILE = ".lass.lock"  # in a run's folder; never deleted, because the lock is on the open file, not its existence


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, as concurrent runs would overwrite each other's files.

    The operating system releases the lock when the process ends for any reason. If the file system does not support
    locks, the run continues without one and prints a message.

    Raises:
        LassError: if another process holds the lock, or the folder cannot be written.
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
