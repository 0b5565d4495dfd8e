"""Safe reader of third-party checkpoints: tensors and plain values, without executing code.

A pickle is a program for a stack machine that can import and call any function. The interpreter in this module neither
imports nor calls anything: globals remain names, and objects other than tensors become inert placeholders, so no
allow-list of classes is needed. Tensors are views of the memory-mapped file; their claimed sizes are checked against
the size of the file before they are created.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lass.errors import LassError
from lass.importers.pickles import PickleReader, Storage, StoredTensor, UnreadableError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file in torch.save's format before PyTorch 1.6
MAX_PICKLE = 2**28  # bytes of a pickle without tensors; published checkpoints have less than 10 MiB
MAX_SHARED = 2  # maximum ratio of weight bytes to file bytes; above 1 because tied weights share memory
NUM_NAMED = 3  # number of wrong weights named in an error message

M = TypeVar("M", bound=nn.Module)


class Extent(NamedTuple):
    """Byte range of a storage in the file."""

    start: int
    num_bytes: int


def read_weights(path: str | Path, key: str, origin: str, program: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of a file of `torch.save` or of a safetensors file, without executing code in it.

    The tensors are memory-mapped views of the file, which must not change while they are in use.

    Args:
        path: Path of the file.
        key: Key of the dictionary of weights. A safetensors file, or a file without this key, is itself the dictionary.
        origin: Where to get the file, for error messages.
        program: Name of the program that writes such files, for error messages.

    Returns:
        The weights by name, and the remaining content of the file with inert placeholders for objects; the latter is
        empty if the whole content is the weights.

    Raises:
        LassError: if the file is missing or damaged, claims tensors larger than itself, or holds no such dictionary.
    """
    with explained(path, origin) as path:
        content, extents = ({}, {}) if _is_safetensors(path) else _unpickled(path)
        if not isinstance(content, dict):
            kind = "tensor" if isinstance(content, StoredTensor) else type(content).__name__
            raise LassError(f"{path} holds a {kind}: expected a dictionary with weights.")
        found = _safetensors(path) if _is_safetensors(path) else content.get(key, content)
        is_wrong = not isinstance(found, dict) or not all(isinstance(x, Tensor | StoredTensor) for x in found.values())
        if is_wrong or not found:
            raise LassError(
                f"{path} is no checkpoint of {program}: expected a dictionary with the weights under '{key}'."
            )
        return _views(path, found, extents), {} if found is content else content


def read_tensor(path: str | Path, origin: str) -> Tensor:
    """Read a file of `torch.save` with a single tensor, without executing code in it.

    Args:
        path, origin: See `read_weights`; the same holds for the tensor.

    Raises:
        LassError: if the file is missing or damaged, claims a tensor larger than itself, or holds anything else.
    """
    with explained(path, origin) as path:
        content, extents = _unpickled(path)
        if not isinstance(content, StoredTensor):
            raise LassError(f"{path} holds a {type(content).__name__}: expected a single tensor.")
        return _views(path, {"": content}, extents)[""]


@contextlib.contextmanager
def explained(path: str | Path, origin: str) -> Iterator[Path]:
    """Yield the path of a foreign file for reading it; convert every exception in the body to a LassError.

    Args:
        path: Path of the file.
        origin: See `read_weights`.

    Raises:
        LassError: if there is no such file, or the body raises an exception.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise LassError(f"There is no checkpoint at {path}: get it from {origin}.")
        yield path
    except LassError:
        raise
    except Exception as error:  # arbitrary bytes can raise any exception
        reason = (
            str(error) if isinstance(error, UnreadableError | OSError) else "its bytes are no checkpoint of PyTorch"
        )
        raise LassError(f"{path} is damaged or something else ({reason}): get it from {origin}.") from error


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"  # after the 8-byte length of the header


def _views(path: Path, found: Mapping[str, Tensor | StoredTensor], extents: Mapping[str, Extent]) -> dict[str, Tensor]:
    """Replace stored tensors by views of the memory-mapped file."""
    whole = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), False, path.stat().st_size))
    tensors = {name: _view(x, extents, whole) if isinstance(x, StoredTensor) else x for name, x in found.items()}
    if sum(tensor.nbytes for tensor in tensors.values()) > MAX_SHARED * len(whole):
        raise UnreadableError("its tensors claim more than the file holds")
    return tensors


def fill(kind: type[M], sizes: Mapping[str, Any], weights: Mapping[str, Tensor], path: str | Path) -> M:
    """Create a module in eval mode from constructor arguments and weights.

    The module is built on the meta device and adopts the tensors of `weights`, so wrong sizes allocate no memory.

    Args:
        kind: Class of the module.
        sizes: Arguments of the class.
        weights: State dictionary of the module; may share memory with a file.
        path: Path of the checkpoint, for error messages.

    Raises:
        LassError: if sizes and weights are inconsistent, or a weight is NaN or infinite.
    """
    try:
        with torch.device("meta"):
            module = kind(**sizes)
    except LassError as error:
        raise LassError(f"{path}: {error}") from error
    except (RuntimeError, TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise LassError(f"{path} holds no {kind.__name__} (sizes: {_shortened(sizes)}).") from error
    expected = module.state_dict()
    wrong = [f"{name} is missing" for name in expected if name not in weights]
    wrong += [f"{name} is not expected" for name in weights if name not in expected]
    wrong += [
        f"{name} is {'×'.join(map(str, weights[name].shape))} instead of {'×'.join(map(str, tensor.shape))}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        some = ", ".join(wrong[:NUM_NAMED]) + (f" and {len(wrong) - NUM_NAMED} more" if len(wrong) > NUM_NAMED else "")
        raise LassError(f"{path} and its configuration do not belong together ({kind.__name__}: {some}).")
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise LassError(f"{path} holds NaN or infinite weights ({name}): get another checkpoint.")
    module.load_state_dict(dict(weights), assign=True)
    return module.eval()


def _shortened(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!s:.20}" for name, value in sizes.items())


def _safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _view(stored: StoredTensor, extents: Mapping[str, Extent], whole: torch.UntypedStorage) -> Tensor:
    """Create a tensor as a view of the memory-mapped file; copied only if its storage is not aligned in the file."""
    start, num_bytes = extents[stored.storage.key]
    dtype = stored.storage.dtype
    item, numel = dtype.itemsize, math.prod(stored.size)
    last = stored.offset + sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
    claims = (*stored.size, *stored.stride, stored.offset)
    if any(type(claim) is not int or claim < 0 for claim in claims):
        raise UnreadableError("a tensor has sizes that are no sizes")
    if (numel and max(numel, last + 1) * item > num_bytes) or start + num_bytes > len(whole):
        raise UnreadableError("its tensors claim more than the file holds")
    memory = whole[start : start + num_bytes]
    if start % item:
        memory = memory.clone()
    return torch.empty(0, dtype=dtype).set_(memory, stored.offset, stored.size, stored.stride)


def _unpickled(path: Path) -> tuple[Any, dict[str, Extent]]:
    """Read the saved object and the byte ranges of its storages."""
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), min(size, MAX_PICKLE), access=mmap.ACCESS_READ) as head,
    ):
        return _unzipped(file) if zipfile.is_zipfile(file) else _legacy(file, head)


def _unzipped(file: BinaryIO) -> tuple[Any, dict[str, Extent]]:
    """Read torch.save's format since PyTorch 1.6: an uncompressed zip archive with one entry per storage."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    pickle = min((name for name in entries if f"/{name}".endswith("/data.pkl")), key=len, default=None)
    if pickle is None:
        raise UnreadableError("it is a zip archive of something else")

    def extent(name: str) -> Extent:
        entry = entries[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnreadableError("it is compressed")
        file.seek(entry.header_offset + 26)
        return Extent(entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))), entry.file_size)

    def read(name: str) -> bytes:
        start, num_bytes = extent(name)
        if num_bytes > MAX_PICKLE:
            raise UnreadableError("it holds too many objects beside its weights")
        file.seek(start)
        return file.read(num_bytes)

    root = pickle.removesuffix("data.pkl")
    if f"{root}byteorder" in entries and read(f"{root}byteorder") != b"little":
        raise UnreadableError("it was written on a machine of another byte order")
    storages: dict[str, Storage] = {}
    content = PickleReader(storages).run(io.BytesIO(read(pickle)))
    return content, {key: extent(f"{root}data/{key}") for key in storages if f"{root}data/{key}" in entries}


def _legacy(file: BinaryIO, head: mmap.mmap) -> tuple[Any, dict[str, Extent]]:
    """Read the format before PyTorch 1.6: pickles (magic number, version, machine, content, keys), then storages."""
    if PickleReader({}).run(head) != LEGACY_MAGIC:
        raise UnreadableError("its bytes are no checkpoint of PyTorch")
    _, machine = PickleReader({}).run(head), PickleReader({}).run(head)
    if machine.get("little_endian") is not True:
        raise UnreadableError("it was written on a machine of another byte order")
    storages: dict[str, Storage] = {}
    content, keys = PickleReader(storages).run(head), PickleReader({}).run(head)
    extents, position = {}, head.tell()
    for key in keys:
        file.seek(position)
        (numel,) = struct.unpack("<q", file.read(8))
        extents[key] = Extent(position + 8, numel * storages[key].dtype.itemsize)
        position = sum(extents[key])
    return content, extents
