"""Interpreter of pickles: creates plain values and descriptions of tensors, imports nothing and calls nothing."""

from __future__ import annotations

import io
import itertools
import mmap
import pickletools
from typing import Any, BinaryIO, NamedTuple, cast

import torch

STORAGES = {  # element type by storage class
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
MAX_OPERATIONS = 2_000_000  # per pickle, as 1 byte can create a 64-byte object; published ones have about 10,000
MARK = object()  # stack marker below the arguments of an operation


class UnknownObject(dict):
    """Inert placeholder of an unpickled object; holds the entries of objects whose class subclasses dict."""


class Name(str):
    """Full name of a global in a pickle, which is not imported."""


class Storage(NamedTuple):
    """Storage of tensors: its key in the file, and its element type."""

    key: str
    dtype: torch.dtype


class StoredTensor(NamedTuple):
    """Tensor in a checkpoint; offset and strides are in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class UnreadableError(Exception):
    """Reason why a file cannot be read."""


class PickleReader:
    """Interpreter of a pickle on a stack of plain values; see the module docstring.

    Args:
        storages: Dictionary to which the storages that the pickle refers to are added, by key.
    """

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages = storages

    def run(self, pickle: mmap.mmap | io.BytesIO) -> Any:
        """Read the next pickle of a file and return its value."""
        for opcode, argument, _ in itertools.islice(pickletools.genops(cast(BinaryIO, pickle)), MAX_OPERATIONS):
            if opcode.name == "STOP":
                return self.stack.pop()
            if not self.changed(opcode.name, argument):
                self.stack.append(self.made(opcode.name, argument))
        raise UnreadableError("it holds too many objects beside its weights")

    def changed(self, operation: str, argument: Any) -> bool:
        """Execute an operation that pushes no value; returns False, without effect, for other operations."""
        match operation:
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "POP" | "BUILD":  # BUILD: the state of an object is dropped
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
        """Value that an operation pushes onto the stack."""
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
            case _:  # numbers and strings
                return argument

    def marked(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        return list(iter(self.stack.pop, MARK))[::-1]

    def last(self, number: int) -> list[Any]:
        """Pop the last `number` values."""
        return [self.stack.pop() for _ in range(number)][::-1]

    def persistent(self, what: str, kind: Name, *more: Any) -> Storage | Name:
        """Resolve a persistent id to a storage, ignoring its claimed length, or to the class name of a module."""
        if what == "module":  # before PyTorch 1.6, with the source text of the class
            return kind
        key, _location, _numel, *view = more
        if what != "storage" or kind not in STORAGES or any(view):  # views of storages: before PyTorch 0.4
            raise UnreadableError("it holds tensors of an unknown kind")
        return self.storages.setdefault(key, Storage(key, STORAGES[kind]))


def _entries(values: list[Any]) -> dict[str, Any]:
    """Dictionary of alternating keys and values. Other keys than strings are dropped: hashing may be slow or deep."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return {key: value for key, value in pairs if isinstance(key, str)}


def _called(function: Any, arguments: Any) -> Any:
    """Result of a call in the pickle: a `StoredTensor` for torch's rebuild functions, else a placeholder."""
    name = str(function).rpartition(".")[2] if isinstance(function, Name) else ""
    match name, arguments:
        case "_rebuild_from_type_v2", (inner, _, inner_arguments, *_):
            return _called(inner, inner_arguments)
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (tensor, *_):
            return tensor
        case "_rebuild_tensor" | "_rebuild_tensor_v2", (Storage() as storage, offset, tuple(size), tuple(stride), *_):
            return StoredTensor(storage, offset, size, stride)
    return UnknownObject()
