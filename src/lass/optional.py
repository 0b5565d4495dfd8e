"""Import of optional packages, with the command that installs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lass.errors import LassError


def optional_package(module: str, package: str, extra: str) -> Any:
    """Import and return the module of an optional package.

    Args:
        module: Module to import.
        package: Name of its package.
        extra: Extra of lass that installs it.

    Raises:
        LassError: if the package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the package is there, but one that it needs is not
        raise LassError(f"This needs {package}: pip install 'lass[{extra}]'.") from error
