"""Artefacts on disk: what a stage leaves for the next one, as safetensors plus JSON that can rebuild itself.

Nothing is unpickled. A file names classes, but only classes that were registered by code which is already imported can
be built from it, so reading a stranger's folder runs none of the stranger's code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lass.errors import LassError, disk_error

FORMAT = 2
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
VERIFIED_BYTES = 2**30  # larger files, which stay mapped into memory, are not read as a whole when they are loaded

#: What a constructor may raise for the values that a file gives it.
BAD_VALUES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)

#: The directory of a stage (`runs/<dataset>/<stage>`) and the make target that fills it.
STAGE_TARGETS = {
    "vqvae": "train-vqvae",
    "prior": "train-prior",
    "features": "train-features",
    "likelihood": "count",
    "separate": "separate",
}

_REGISTRY: dict[str, type] = {}
C = TypeVar("C", bound=type)


def register(cls: C) -> C:
    """Class decorator: lets saved folders name this class. Import your own module before loading what uses it."""
    if _REGISTRY.setdefault(cls.__name__, cls) is not cls:
        # A module that was reloaded defines its classes again; any other clash is a mistake.
        previous = _REGISTRY[cls.__name__]
        if (previous.__module__, previous.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"two components are called {cls.__name__}: {previous.__module__} and {cls.__module__}")
        _REGISTRY[cls.__name__] = cls
    return cls


def describe(component: Any) -> dict[str, Any]:
    """A registered dataclass as JSON-ready `{"class": name, **fields}`; `build` is the way back.

    Raises:
        LassError: if it is no registered dataclass.
    """
    if not dataclasses.is_dataclass(component) or _REGISTRY.get(type(component).__name__) is not type(component):
        raise LassError(
            f"A {type(component).__name__} cannot be saved: make it a dataclass and register it with "
            "@lass.artifacts.register."
        )
    fields = {field.name: getattr(component, field.name) for field in dataclasses.fields(component) if field.init}
    return {"class": type(component).__name__, **fields}


def registered(name: object, source: Path) -> type:
    """The class of that name.

    Raises:
        LassError: if there is none; it says how to make the class known.
    """
    if not isinstance(name, str) or name not in _REGISTRY:
        raise LassError(
            f"{source} needs the class {name!r:.80}, which is not among the known ones ("
            f"{', '.join(sorted(_REGISTRY))}): import the module that defines it (with @lass.artifacts.register) first."
        )
    return _REGISTRY[name]


def build(description: object, source: Path, protocol: type) -> Any:
    """The inverse of `describe`: a registered dataclass from its JSON form.

    Args:
        description: `{"class": name, **fields}`.
        source: the file that the description was read from, for errors.
        protocol: that the component must implement, checked before anything is built.

    Raises:
        LassError: if the class is unknown, no such component, or refuses its fields.
    """
    if not isinstance(description, Mapping):
        raise LassError(f"{source} does not describe a {protocol.__name__}: expected a JSON object with its class.")
    component = registered(description.get("class"), source)
    methods = [name for name, value in vars(protocol).items() if callable(value) and name[0] != "_"]
    if not dataclasses.is_dataclass(component) or not all(
        callable(getattr(component, method, None)) for method in methods
    ):
        raise LassError(f"{source} names {component.__name__} as its {protocol.__name__}, which it is not.")
    return construct(component, {key: value for key, value in description.items() if key != "class"}, source)


def construct(component: type, arguments: object, source: Path) -> Any:
    """`component(**arguments)`, with arguments from a file.

    Raises:
        LassError: if the class refuses them; `source` is named.
    """
    try:
        return component(**arguments)  # type: ignore[arg-type]
    except LassError as error:
        raise LassError(f"{source} describes no {component.__name__}: {error}") from error
    except BAD_VALUES as error:
        reason = " ".join(str(error).split())
        raise LassError(
            f"{source} describes no {component.__name__} of this version of lass ({reason:.200}): save it again."
        ) from error


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, flush the file to disk and rename it at the end.

    A run that is killed, or a disk that is full, leaves the old file whole, and no half-written one.

    Raises:
        LassError: if the file system does not take the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask allows; safetensors would leave a file only its owner can read
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        if failure := disk_error(error, path):
            raise failure from error
        raise
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)


def missing(path: Path, what: str) -> LassError:
    """The error for an artefact that is not there, with the command that makes it when `path` is a run's."""
    command = _command(path)
    hint = f"make it with `{command}`" if command else "make it with the stage before this one"
    return LassError(f"There is no {what} at {path}: {hint}, or name another one.")


def _command(path: Path) -> str | None:
    for runs, dataset, stage in zip(path.parts, path.parts[1:], path.parts[2:], strict=False):
        if (runs, stage) == ("runs", "taming"):
            return f"lass import taming --config CONFIG.yaml --checkpoint CHECKPOINT.ckpt --out runs/{dataset}/taming"
        stage, _, source = stage.partition("-")  # prior-bass is the prior of one source
        if runs == "runs" and stage in STAGE_TARGETS:
            return f"make {STAGE_TARGETS[stage]} DATASET={dataset}" + (f" SOURCE={source}" if source else "")
    return None


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write one safetensors file, whole or not at all, with a checksum of its tensors; `metadata` becomes JSON."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {"format": FORMAT, "checksum": fingerprint(tensors), **metadata}
    stored: set[int] = set()
    for name, tensor in tensors.items():  # safetensors refuses shared memory, which tied weights have
        memory = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if memory in stored else tensor
        stored.add(memory)
    with atomic_write(path) as temporary:
        save_file(tensors, str(temporary), metadata={"lass": json.dumps(facts)})


def load_tensors(path: str | Path, what: str, verify: bool | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_tensors`: tensors, mapped into memory, and metadata.

    Args:
        path: of the file.
        what: it should hold, for errors.
        verify: compare the tensors with the checksum that was stored with them, and refuse numbers that are not
            finite. This reads the whole file; default: only up to 1 GiB (`VERIFIED_BYTES`).

    Raises:
        LassError: if the file is missing, truncated, not ours, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, what)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("lass", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise LassError(f"{path} is damaged or no safetensors file ({error}): make the {what} again.") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise LassError(f"{path} holds no {what} in format {FORMAT} of lass: make it again with this version.")
    if verify or (verify is None and path.stat().st_size <= VERIFIED_BYTES):
        if fingerprint(tensors) != metadata.get("checksum"):
            raise LassError(f"{path} is damaged: its content has changed since it was written; make the {what} again.")
        check_finite(tensors, path)
    return tensors, metadata


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise LassError if one of the tensors holds NaN or infinity; `source` is named."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise LassError(f"{source} holds NaN or infinite numbers in {name}: expected finite ones only.")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object, with errors that say what it was meant to be."""
    if not path.is_file():
        raise missing(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LassError(f"{path} is damaged ({error}): make the {what} again.") from error
    if not isinstance(content, dict):
        raise LassError(f"{path} is no description of a {what}: expected a JSON object.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def fingerprint(part: nn.Module | Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that identify tensors, or a module.

    They change with every weight and buffer, and for an Artifact also with its class and every constructor argument
    that differs from its default. (Without the defaults, so that a new argument does not change known fingerprints.)
    """
    if isinstance(part, Artifact):
        return _digest(part.state_dict(), type(part), part.config)
    return _digest(part.state_dict() if isinstance(part, nn.Module) else part)


def _digest(
    tensors: Mapping[str, Tensor], component: type | None = None, config: Mapping[str, Any] | None = None
) -> str:
    digest = hashlib.sha256()
    if component is not None:
        defaults = {name: parameter.default for name, parameter in inspect.signature(component).parameters.items()}
        settings = {name: json.dumps(value, sort_keys=True) for name, value in (config or {}).items()}
        differing = {
            name: value for name, value in settings.items() if value != json.dumps(defaults.get(name), default=str)
        }
        digest.update(f"{component.__name__}:{json.dumps(differing, sort_keys=True)};".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class FileIdentity:
    """A file as it was when it was read: still the same file with the same content while this is equal."""

    device: int
    inode: int
    size: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """The identity of a file now."""
        facts = path.stat()
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a part was loaded from, so that an unchanged one is linked instead of written again."""

    path: Path
    identity: FileIdentity
    fingerprint: str

    @classmethod
    def of(cls, path: str | Path, fingerprint: str) -> Origin:
        """The origin of a part that was just read from `path`, with its fingerprint."""
        path = Path(path).resolve()
        return cls(path, FileIdentity.of(path), fingerprint)

    def link(self, path: Path, fingerprint: str) -> bool:
        """Make `path` a hard link to the file, and return whether that was possible.

        It is not if the content that is to be saved has another fingerprint, the file was replaced since it was read,
        or `path` is on another disk. Files are only ever replaced as a whole (`atomic_write`), so neither name of a
        linked file can change what the other one holds.
        """
        try:
            if fingerprint != self.fingerprint or FileIdentity.of(self.path) != self.identity:
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.unlink(missing_ok=True)
            os.link(self.path, temporary)
            os.replace(temporary, path)
            temporary.unlink(missing_ok=True)  # still there if both names were the same file already
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
                raise
            return False
        return True


@runtime_checkable
class MadeForCodec(Protocol):
    """A part that records the codec whose codes it was made for."""

    codec_fingerprint: str | None  # None if unknown


@runtime_checkable
class Savable(Protocol):
    """A codec or prior that can be saved to a folder."""

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the folder and return it."""
        ...


class Artifact(nn.Module):
    """A module that can be saved to a folder (safetensors + JSON) and rebuilt from that folder alone.

    Subclasses are registered, keep their constructor's arguments in `self.config`, and set `kind`: "codec", "prior"
    or "features". Their constructors also run on torch's "meta" device, where `load_artifact` compares the sizes that
    a folder claims with the weights in it, before any memory is taken.
    """

    kind: str
    #: Weights stay in the file they are read from, mapped into memory, and keep its data type. For large modules, whose
    #: constructors do nothing but fill what the file replaces; so a subclass has to say it again.
    mapped: ClassVar[bool] = False
    config: dict[str, Any]
    #: Fingerprint of the codec whose codes this module was made for; None where it is a codec or was never trained.
    codec_fingerprint: str | None = None
    _origin: Origin | None = None

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json` and `model.safetensors` into `folder` and return it.

        Weights that were loaded and have not changed are hard-linked where they lie on the same disk.
        """
        folder, own = Path(folder), fingerprint(self)
        facts = {
            "class": type(self).__name__,
            "config": self.config,
            "codec_fingerprint": self.codec_fingerprint,
            "fingerprint": own,
        }
        if self._origin is None or not self._origin.link(folder / WEIGHTS_FILE, own):
            save_tensors(folder / WEIGHTS_FILE, dict(self.state_dict()), {})
        write_json(folder / CONFIG_FILE, {"format": FORMAT, "kind": self.kind, **facts})
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Artifact:
        """Rebuild a module from its folder; see `load_artifact`."""
        return load_artifact(folder, cls.kind)


def load_artifact(folder: str | Path, kind: str, verify: bool | None = None) -> Artifact:
    """Rebuild the module that `save_pretrained` wrote, in eval mode on the CPU.

    Args:
        folder: of the module.
        kind: that it must be of: "codec", "prior" or "features".
        verify: compare weights and configuration with the fingerprint that was stored with them, and refuse weights
            that are not finite. This reads the whole file; default: only up to 1 GiB (`VERIFIED_BYTES`).

    Raises:
        LassError: if the folder is missing, damaged, or holds another kind of module.
    """
    folder = Path(folder)
    source, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    facts = read_json(source, kind)
    if facts.get("format") != FORMAT:
        raise LassError(f"{source} is no {kind} in format {FORMAT} of lass: make the {kind} again with this version.")
    component = registered(facts.get("class"), source)
    is_kind = issubclass(component, Artifact) and getattr(component, "kind", None) == kind
    if not is_kind or facts.get("kind") != kind:
        raise LassError(f"{folder} holds a {component.__name__}, not a {kind}: name the folder of a {kind}.")
    tensors, _ = load_tensors(path, kind, verify=False)
    config = facts.get("config")
    if not isinstance(config, dict):
        raise LassError(f"{source} has no config: make the {kind} again.")
    if verify or (verify is None and path.stat().st_size <= VERIFIED_BYTES):
        if _digest(tensors, component, config) != facts.get("fingerprint"):
            raise LassError(
                f"{folder} is damaged: {WEIGHTS_FILE} and {CONFIG_FILE} do not have the fingerprint they were saved "
                f"with; make the {kind} again."
            )
        check_finite(tensors, path)
    with torch.device("meta"):  # sizes in a file are claims: nothing is allocated for them
        module = construct(component, config, source)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise LassError(f"{path} and {CONFIG_FILE} beside it do not belong together: make the {kind} again.")
    mapped = vars(component).get("mapped", False)
    if not mapped:
        module = construct(component, config, source)
    module.load_state_dict(tensors, assign=mapped)
    module.codec_fingerprint = facts.get("codec_fingerprint")
    if (own := facts.get("fingerprint")) is not None:
        module._origin = Origin.of(path, own)
    return module.eval()
