"""Checkpoints of other programs: tensors and plain values are read from them, and no code of theirs is run.

A pickle is a program for a stack machine that may import and call any function. The machine here imports and calls
nothing: the name of a global stays a name, and an object of any class but a tensor becomes an inert stand-in. So no
list of safe classes is needed. Tensors are views of the file, which is mapped into memory; sizes that the pickle claims
are compared with the bytes that the file has before a tensor is made.
"""

from __future__ import annotations

import io
import itertools
import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lass.errors import LassError

STORAGES = {  # types of elements by the type of a storage
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file that torch.save wrote before PyTorch 1.6
MAX_PICKLE = 2**28  # bytes of a pickle without its tensors; published ones have less than 10 MiB
MAX_OPERATIONS = 2_000_000  # of a pickle: one byte can make an object of 64; published ones have some 10,000
MAX_SHARED = 2  # bytes of all weights, as a multiple of the file's: tied weights share memory
NUM_NAMED = 3  # wrong weights in an error
MARK = object()  # on the stack, below the arguments of an operation

M = TypeVar("M", bound=nn.Module)


class UnknownObject(dict):
    """Takes the place of an object of an unknown class; keeps its entries if the class was a kind of dictionary."""


class Name(str):
    """Full name of a global in a pickle. It is not imported."""


class Storage(NamedTuple):
    """Memory of tensors: `key` names it in the file."""

    key: str
    dtype: torch.dtype


class StoredTensor(NamedTuple):
    """A tensor in the file: offset and strides in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Extent(NamedTuple):
    """Bytes of the file that a storage takes."""

    start: int
    num_bytes: int


class _Unreadable(Exception):
    """Why a file is not read."""


def read_weights(path: str | Path, key: str, origin: str, program: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a file of `torch.save` or of a safetensors file, without running anything in it.

    The tensors are views of the file: it must stay as it is while they are used.

    Args:
        path: of the file.
        key: of the dictionary with the weights. A file that holds nothing but tensors is that dictionary itself.
        origin: where the file can be had, for the error when it is not there.
        program: which wrote the file, for the error when it holds something else.

    Returns:
        The weights, and all that lies beside them, with inert stand-ins for objects.

    Raises:
        LassError: if the file is missing, damaged, claims tensors larger than itself, or holds no such dictionary.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise LassError(f"There is no checkpoint at {path}: get it from {origin}.")
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # after the length of the header
        content, extents = ({}, {}) if is_safetensors else _unpickled(path)
        found = _safetensors(path) if is_safetensors else content.get(key, content)
        is_wrong = not isinstance(found, dict) or not all(isinstance(x, Tensor | StoredTensor) for x in found.values())
        if is_wrong or not found:
            raise LassError(
                f"{path} is no checkpoint of {program}: expected a dictionary with the weights under '{key}'."
            )
        whole = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), False, path.stat().st_size))
        weights = {name: _view(x, extents, whole) if isinstance(x, StoredTensor) else x for name, x in found.items()}
        if sum(tensor.nbytes for tensor in weights.values()) > MAX_SHARED * len(whole):
            raise _Unreadable("its tensors claim more than the file holds")
    except LassError:
        raise
    except Exception as error:  # bytes that are no checkpoint can raise whatever they spell
        reason = str(error) if isinstance(error, _Unreadable | OSError) else "its bytes are no checkpoint of PyTorch"
        raise LassError(f"{path} is damaged or something else ({reason}): get it from {origin}.") from error
    return weights, {} if found is content else content


def fill(kind: type[M], sizes: Mapping[str, Any], weights: Mapping[str, Tensor], path: str | Path) -> M:
    """A module of these sizes and weights, in eval mode; memory is taken only for what the weights hold.

    Args:
        kind: class of the module.
        sizes: arguments of the class.
        weights: state of the module; may share memory with a file.
        path: of the checkpoint, for errors.

    Raises:
        LassError: if sizes and weights do not belong together, or a weight is NaN or infinite.
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
    """The tensor, a view of the mapped file; a copy only where the file does not align its storage."""
    start, num_bytes = extents[stored.storage.key]
    dtype = stored.storage.dtype
    item, numel = dtype.itemsize, math.prod(stored.size)
    last = stored.offset + sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
    claims = (*stored.size, *stored.stride, stored.offset)
    if any(type(claim) is not int or claim < 0 for claim in claims):
        raise _Unreadable("a tensor has sizes that are no sizes")
    if (numel and max(numel, last + 1) * item > num_bytes) or start + num_bytes > len(whole):
        raise _Unreadable("its tensors claim more than the file holds")
    memory = whole[start : start + num_bytes]
    if start % item:
        memory = memory.clone()
    return torch.empty(0, dtype=dtype).set_(memory, stored.offset, stored.size, stored.stride)


def _unpickled(path: Path) -> tuple[dict[str, Any], dict[str, Extent]]:
    """The dictionary that was saved, and where in the file its storages lie."""
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), min(size, MAX_PICKLE), access=mmap.ACCESS_READ) as head,
    ):
        content, extents = _unzipped(file) if zipfile.is_zipfile(file) else _legacy(file, head)
    if not isinstance(content, dict):
        kind = "tensor" if isinstance(content, StoredTensor) else type(content).__name__
        raise LassError(f"{path} holds a {kind}: expected a dictionary with weights.")
    return content, extents


def _unzipped(file: BinaryIO) -> tuple[Any, dict[str, Extent]]:
    """As torch.save writes since PyTorch 1.6: a zip archive, uncompressed, with one entry for each storage."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    pickle = min((name for name in entries if f"/{name}".endswith("/data.pkl")), key=len, default=None)
    if pickle is None:
        raise _Unreadable("it is a zip archive of something else")

    def extent(name: str) -> Extent:
        entry = entries[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise _Unreadable("it is compressed")
        file.seek(entry.header_offset + 26)
        return Extent(entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))), entry.file_size)

    def read(name: str) -> bytes:
        start, num_bytes = extent(name)
        if num_bytes > MAX_PICKLE:
            raise _Unreadable("it holds too many objects beside its weights")
        file.seek(start)
        return file.read(num_bytes)

    root = pickle.removesuffix("data.pkl")
    if f"{root}byteorder" in entries and read(f"{root}byteorder") != b"little":
        raise _Unreadable("it was written on a machine of another byte order")
    storages: dict[str, Storage] = {}
    content = _PickleReader(storages).run(io.BytesIO(read(pickle)))
    return content, {key: extent(f"{root}data/{key}") for key in storages if f"{root}data/{key}" in entries}


def _legacy(file: BinaryIO, head: mmap.mmap) -> tuple[Any, dict[str, Extent]]:
    """As before PyTorch 1.6: pickles (magic number, version, machine, content, keys), then the storages one by one."""
    if _PickleReader({}).run(head) != LEGACY_MAGIC:
        raise _Unreadable("its bytes are no checkpoint of PyTorch")
    _, machine = _PickleReader({}).run(head), _PickleReader({}).run(head)
    if machine.get("little_endian") is not True:
        raise _Unreadable("it was written on a machine of another byte order")
    storages: dict[str, Storage] = {}
    content, keys = _PickleReader(storages).run(head), _PickleReader({}).run(head)
    extents, position = {}, head.tell()
    for key in keys:
        file.seek(position)
        (numel,) = struct.unpack("<q", file.read(8))
        extents[key] = Extent(position + 8, numel * storages[key].dtype.itemsize)
        position = sum(extents[key])
    return content, extents


class _PickleReader:
    """Runs one pickle on a stack of plain values.

    Args:
        storages: takes up the storages that the pickle names.
    """

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages = storages

    def run(self, pickle: mmap.mmap | io.BytesIO) -> Any:
        """The value of the next pickle in a file."""
        for opcode, argument, _ in itertools.islice(pickletools.genops(cast(BinaryIO, pickle)), MAX_OPERATIONS):
            if opcode.name == "STOP":
                return self.stack.pop()
            if not self.changed(opcode.name, argument):
                self.stack.append(self.made(opcode.name, argument))
        raise _Unreadable("it holds too many objects beside its weights")

    def changed(self, operation: str, argument: Any) -> bool:
        """Whether the operation pushes nothing; it is done then."""
        match operation:
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "POP" | "BUILD":  # the state of an object is dropped
                self.stack.pop()
            case "POP_MARK":
                self.marked()
            case "APPEND" | "APPENDS" | "ADDITEMS":
                values = self.last(1) if operation == "APPEND" else self.marked()
                if isinstance(self.stack[-1], list):
                    self.stack[-1].extend(values)
            case "SETITEM" | "SETITEMS":
                values = self.last(2) if operation == "SETITEM" else self.marked()
                if isinstance(self.stack[-1], dict):
                    self.stack[-1].update(_entries(values))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case _:
                return False
        return True

    def made(self, operation: str, argument: Any) -> Any:
        """What the operation pushes."""
        match operation:
            case "MARK":
                return MARK
            case "NONE":
                return None
            case "NEWTRUE" | "NEWFALSE":
                return operation == "NEWTRUE"
            case "DUP":
                return self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                return self.memo[argument]
            case "EMPTY_TUPLE":
                return ()
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple(self.marked() if operation == "TUPLE" else self.last(int(operation[-1])))
            case "EMPTY_LIST" | "EMPTY_SET":
                return []
            case "LIST" | "FROZENSET":
                return self.marked()
            case "EMPTY_DICT":
                return {}
            case "DICT":
                return _entries(self.marked())
            case "GLOBAL":
                return Name(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                return Name(".".join(self.last(2)))
            case "REDUCE":
                return _called(*self.last(2))
            case "BINPERSID":
                return self.persistent(*self.last(1)[0])
            case "INST" | "OBJ":
                self.marked()
                return UnknownObject()
            case "NEWOBJ" | "NEWOBJ_EX":
                self.last(2 if operation == "NEWOBJ" else 3)
                return UnknownObject()
            case "PERSID" | "NEXT_BUFFER" | "EXT1" | "EXT2" | "EXT4":
                return UnknownObject()
            case _:  # numbers and text
                return argument

    def marked(self) -> list[Any]:
        """Take off the values above the last mark, and the mark."""
        return list(iter(self.stack.pop, MARK))[::-1]

    def last(self, number: int) -> list[Any]:
        """Take off the last values."""
        return [self.stack.pop() for _ in range(number)][::-1]

    def persistent(self, what: str, kind: Name, *more: Any) -> Storage | Name:
        """What a persistent id stands for: the class of a module, or a storage, whose claimed length is not used."""
        if what == "module":  # with its source text, before PyTorch 1.6
            return kind
        key, _location, _numel, *view = more
        if what != "storage" or kind not in STORAGES or any(view):  # views: before PyTorch 0.4
            raise _Unreadable("it holds tensors of an unknown kind")
        return self.storages.setdefault(key, Storage(key, STORAGES[kind]))


def _entries(values: list[Any]) -> dict[str, Any]:
    """Keys and values in turn. Only keys that are text are kept: to compare others may take long or run deep."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return {key: value for key, value in pairs if isinstance(key, str)}


def _called(function: Any, arguments: Any) -> Any:
    """What a call stands for: a tensor, or an object that is not made."""
    name = str(function).rpartition(".")[2] if isinstance(function, Name) else ""
    match name, arguments:
        case "_rebuild_from_type_v2", (inner, _, inner_arguments, *_):
            return _called(inner, inner_arguments)
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (tensor, *_):
            return tensor
        case "_rebuild_tensor" | "_rebuild_tensor_v2", (Storage() as storage, offset, tuple(size), tuple(stride), *_):
            return StoredTensor(storage, offset, size, stride)
    return UnknownObject()
