"""Other programs' checkpoints: tensors and plain values are read from them, and no code of theirs is run."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lass.errors import LassError

#: Packages whose objects lie in published checkpoints beside the weights. An inert stand-in takes the place of each;
#: the packages themselves are not imported.
REPLACED = ("argparse", "builtins", "collections", "main", "numpy", "omegaconf", "pytorch_lightning", "taming")
REPLACED += ("typing",)
NUM_NAMED = 3  # refused names in an error


class StandIn:
    """Takes whatever it is made from, and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        """Of anything."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class DictStandIn:
    """Becomes a plain dictionary: other objects cannot be filled."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:
        """Of anything."""
        return OrderedDict()


class ListStandIn:
    """Becomes a plain list."""

    def __new__(cls, *args: Any, **kwargs: Any) -> list:
        """Of anything."""
        return []


FILLED = {"AttributeDict": DictStandIn, "defaultdict": DictStandIn, "dict": DictStandIn}
FILLED |= {"deque": ListStandIn, "list": ListStandIn}  # by the last part of their name


def read_checkpoint(path: str | Path, origin: str) -> dict[str, Any]:
    """What `torch.save` wrote, without running anything in it; tensors stay in the file until they are used.

    Args:
        path: of the file.
        origin: where it can be had, for the error when it is not there.

    Raises:
        LassError: if the file is missing, damaged, names code that is not known to be left out safely, or holds no
            dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise LassError(f"There is no checkpoint at {path}: get it from {origin}.")
    is_zip = zipfile.is_zipfile(path)  # as torch.save writes since 1.6; only such a file can be mapped into memory
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
        unknown = sorted(name for name in named if name.split(".")[0] not in REPLACED)
        if unknown:
            some = ", ".join(unknown[:NUM_NAMED]) + (" …" if len(unknown) > NUM_NAMED else "")
            raise LassError(f"{path} names code that weights do not need ({some}): it is not read.")
        stand_ins = [(FILLED.get(name.rsplit(".", 1)[-1], StandIn), name) for name in named]
        with torch.serialization.safe_globals(stand_ins):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except LassError:
        raise
    except Exception as error:  # bytes that are no checkpoint make an unpickler raise whatever they spell
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LassError(f"{path} is damaged, or holds more than weights and is not read: {reason}.") from error
    if not isinstance(checkpoint, dict):
        raise LassError(f"{path} holds a {type(checkpoint).__name__}: expected a dictionary with weights.")
    return checkpoint


def weights_in(checkpoint: dict[str, Any], key: str, path: str | Path, program: str) -> dict[str, Tensor]:
    """The dictionary of tensors under `key`.

    Raises:
        LassError: if there is none; it says that the file is no checkpoint of `program`.
    """
    weights = checkpoint.get(key)
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise LassError(f"{path} is no checkpoint of {program}: expected a dictionary with the weights under '{key}'.")
    return weights
