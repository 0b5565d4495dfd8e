"""Artefacts on disk: modules and tensors that one stage saves for the next, as safetensors and JSON.

Nothing is unpickled. Files contain names of classes, but only classes registered by code that is already imported are
instantiated. Loading an untrusted folder therefore executes no code from it.
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
VERIFIED_BYTES = 2**30  # larger files are memory-mapped and not verified by default, as this would read all of them

#: Exceptions of a constructor that are attributed to invalid values from a file.
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
    "score": "train-score",
    "glow": "train-glow",
    "wavenet": "train-wavenet",
    "gan": "train-gan",
    "features": "train-features",
    "dictionaries": "train-nmf",
    "supervised": "train-supervised",
    "likelihood": "count",
    "separate": "separate",
}

_REGISTRY: dict[str, type] = {}
C = TypeVar("C", bound=type)


def register(cls: C) -> C:
    """Class decorator that allows a class in saved folders. Import the class's module before loading such a folder."""
    if _REGISTRY.setdefault(cls.__name__, cls) is not cls:
        # Reloading a module redefines its classes; any other duplicate name is an error.
        previous = _REGISTRY[cls.__name__]
        if (previous.__module__, previous.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"two components are called {cls.__name__}: {previous.__module__} and {cls.__module__}")
        _REGISTRY[cls.__name__] = cls
    return cls


def describe(component: Any) -> dict[str, Any]:
    """Convert an instance of a registered dataclass to `{"class": name, **fields}` for JSON; inverted by `build`.

    Raises:
        LassError: if its class is not a registered dataclass.
    """
    if not dataclasses.is_dataclass(component) or _REGISTRY.get(type(component).__name__) is not type(component):
        raise LassError(
            f"A {type(component).__name__} cannot be saved: make it a dataclass and register it with "
            "@lass.artifacts.register."
        )
    fields = {field.name: getattr(component, field.name) for field in dataclasses.fields(component) if field.init}
    return {"class": type(component).__name__, **fields}


def registered(name: object, source: Path) -> type:
    """Return the registered class called `name`; `source` is the file that contains the name, for errors.

    Raises:
        LassError: if no class of this name is registered.
    """
    if not isinstance(name, str) or name not in _REGISTRY:
        raise LassError(
            f"{source} needs the class {name!r:.80}, which is not among the known ones ("
            f"{', '.join(sorted(_REGISTRY))}): import the module that defines it (with @lass.artifacts.register) first."
        )
    return _REGISTRY[name]


def build(description: object, source: Path, protocol: type) -> Any:
    """Build a registered dataclass from its JSON form; the inverse of `describe`.

    Args:
        description: Dictionary `{"class": name, **fields}`.
        source: Path of the file with the description, for errors.
        protocol: Protocol that the class must implement; checked before the class is instantiated.

    Raises:
        LassError: if the class is unknown, does not implement the protocol, or rejects its fields.
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
    """Return `component(**arguments)` for arguments from the file `source`.

    Raises:
        LassError: if the class rejects the arguments; the message names `source`.
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
    """Context manager for atomic writes: yield a temporary path, then flush that file to disk and rename it to `path`.

    If the process is killed or the disk is full, `path` keeps its previous content.

    Raises:
        LassError: if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # from the umask; safetensors makes files that only the owner can read
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
    """Return the error for a missing artefact, with the command that creates it if `path` is in a run's folder."""
    command = _command(path)
    hint = f"make it with `{command}`" if command else "make it with the stage before this one"
    return LassError(f"There is no {what} at {path}: {hint}, or name another one.")


def _command(path: Path) -> str | None:
    for runs, dataset, stage in zip(path.parts, path.parts[1:], path.parts[2:], strict=False):
        if (runs, stage) == ("runs", "taming"):
            return f"lass import taming --config CONFIG.yaml --checkpoint CHECKPOINT.ckpt --out runs/{dataset}/taming"
        if (runs, stage) == ("runs", "authors"):
            return f"lass import authors --vqvae VQVAE --prior PRIOR --sums SUMS --out runs/{dataset}/authors"
        stage, _, part = stage.partition("-")  # prior-bass is the prior of one source, supervised-demucs a network
        if runs == "runs" and stage in STAGE_TARGETS:
            option = "METHOD" if stage == "supervised" else "SOURCE"
            return f"make {STAGE_TARGETS[stage]} DATASET={dataset}" + (f" {option}={part}" if part else "")
    return None


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file atomically, with a checksum of the tensors and with `metadata` as JSON."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {"format": FORMAT, "checksum": fingerprint(tensors), **metadata}
    stored: set[int] = set()
    for name, tensor in tensors.items():  # safetensors rejects tensors with shared memory (tied weights)
        memory = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if memory in stored else tensor
        stored.add(memory)
    with atomic_write(path) as temporary:
        save_file(tensors, str(temporary), metadata={"lass": json.dumps(facts)})


def load_tensors(path: str | Path, what: str, verify: bool | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load a file of `save_tensors`.

    Args:
        path: Path of the file.
        what: Noun for the expected content, for errors.
        verify: Whether to compare the tensors with their stored checksum and to reject non-finite values, which reads
            the whole file; default only for files up to 1 GiB (`VERIFIED_BYTES`).

    Returns:
        The memory-mapped tensors by name, and the metadata.

    Raises:
        LassError: if the file is missing, truncated, damaged, or not in the format of `save_tensors`.
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
    """Raise LassError if one of the tensors contains NaN or infinity; the message names `source`."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise LassError(f"{source} holds NaN or infinite numbers in {name}: expected finite ones only.")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; `what` is a noun for the expected content, for errors."""
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
    """Write a JSON object atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def fingerprint(part: nn.Module | Mapping[str, Tensor]) -> str:
    """Hash tensors or a module to sixteen hexadecimal digits.

    The fingerprint depends on all weights and buffers; for an Artifact also on its class and on the constructor
    arguments that differ from their defaults. (Defaults are excluded, so that adding an argument to a class does not
    change existing fingerprints.)
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
    """Identity of a file and of its content at one time, by which a later change of the file is detected."""

    device: int
    inode: int
    size: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Return the current identity of a file."""
        facts = path.stat()
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class Origin:
    """File that a module or likelihood was loaded from, so that saving it unchanged makes a hard link, not a copy."""

    path: Path
    identity: FileIdentity
    fingerprint: str

    @classmethod
    def of(cls, path: str | Path, fingerprint: str) -> Origin:
        """Return the origin of a module or likelihood that was just loaded from `path`, with its fingerprint."""
        path = Path(path).resolve()
        return cls(path, FileIdentity.of(path), fingerprint)

    def link(self, path: Path, fingerprint: str) -> bool:
        """Make `path` a hard link to the file, and return whether this succeeded.

        It fails if the content to be saved has another fingerprint, if the file was replaced since it was loaded, or
        if `path` is on another file system. A link is safe because files are only replaced as a whole (`atomic_write`),
        which does not affect their other names.
        """
        try:
            if fingerprint != self.fingerprint or FileIdentity.of(self.path) != self.identity:
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.unlink(missing_ok=True)
            os.link(self.path, temporary)
            os.replace(temporary, path)
            temporary.unlink(missing_ok=True)  # os.replace keeps it if both names are already one file
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
    """Base class of modules that are saved to a folder (safetensors and JSON) and rebuilt from that folder alone.

    A subclass must be registered (`register`), store its constructor's arguments in `self.config`, and set `kind` to
    "codec", "prior", "denoiser", "generator", "features", "dictionaries" or "network". Its constructor must also run on
    torch's "meta" device, on which `load_artifact` compares the sizes in the config with the stored weights before it
    allocates memory.
    """

    kind: str
    #: Whether loaded weights stay memory-mapped, in the data type of the file. For large modules whose constructor
    #: only initialises tensors that the file replaces; not inherited, so every such subclass must set it.
    mapped: ClassVar[bool] = False
    config: dict[str, Any]
    #: Fingerprint of the codec whose codes this module was trained on; None for a codec and for an untrained module.
    codec_fingerprint: str | None = None
    _origin: Origin | None = None

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json` and `model.safetensors` to `folder`, and return `folder`.

        Unchanged weights that were loaded from the same file system are hard-linked instead of copied.
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
        """Load a module of this kind from its folder; see `load_artifact`."""
        return load_artifact(folder, cls.kind)


def load_artifact(folder: str | Path, kind: str, verify: bool | None = None) -> Artifact:
    """Load a module saved by `save_pretrained`, in eval mode on the CPU.

    Args:
        folder: Folder of the module.
        kind: Required kind of module: "codec", "prior", "denoiser", "generator", "features", "dictionaries" or
            "network".
        verify: Whether to compare weights and config with the stored fingerprint and to reject non-finite weights,
            which reads the whole file; default only for files up to 1 GiB (`VERIFIED_BYTES`).

    Raises:
        LassError: if the folder is missing, damaged, or contains another kind of module.
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
    with torch.device("meta"):  # sizes in the config are not trusted yet, so no memory is allocated
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
