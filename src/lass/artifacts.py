"""Artefacts on disk: what a stage leaves for the next one, as safetensors plus JSON that can rebuild itself.

Nothing is unpickled. A file names classes, but only classes that were registered by code which is already imported can
be built from it, so reading a stranger's folder runs none of the stranger's code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lass.disk import disk_error
from lass.errors import LassError

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

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
    """The class of that name, or an error that says how to make it known."""
    if not isinstance(name, str) or name not in _REGISTRY:
        raise LassError(
            f"{source} needs the class {name!r}, which is not among the known ones ({', '.join(sorted(_REGISTRY))}): "
            "import the module that defines it (with @lass.artifacts.register) first."
        )
    return _REGISTRY[name]


def build(description: dict[str, Any], source: Path) -> Any:
    """Rebuild what `describe` described; `source` is named in errors."""
    arguments = {key: value for key, value in description.items() if key != "class"}
    try:
        return registered(description["class"], source)(**arguments)
    except (TypeError, KeyError) as error:
        raise LassError(f"{source} does not describe a component of this version of lass: {error}.") from error


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` and rename it at the end: a killed run leaves no half-written file.

    Raises:
        LassError: if the file system does not take the file; what was at `path` before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask allows; safetensors would leave a file only its owner can read
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        if getattr(error, "filename", None) == str(temporary):
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
    """Write one safetensors file, whole or not at all; `metadata` is kept as one JSON text."""
    with written_whole(path) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        stored: set[int] = set()
        for name, tensor in tensors.items():  # safetensors refuses shared memory, which tied weights have
            memory = tensor.untyped_storage().data_ptr()
            tensors[name] = tensor.clone() if memory in stored else tensor
            stored.add(memory)
        save_file(tensors, str(temporary), metadata={"lass": json.dumps({"format": FORMAT, **metadata})})


def load_tensors(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_tensors`.

    Raises:
        LassError: if the file is missing, truncated, or not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, what)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("lass", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise LassError(f"{path} is damaged or no safetensors file ({error}): make the {what} again.") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise LassError(f"{path} holds no {what} in format {FORMAT} of lass: make it again with this version.")
    return tensors, metadata


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object, with errors that say what it was meant to be."""
    if not path.is_file():
        raise missing(path, what)
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise LassError(f"{path} is damaged ({error}): make the {what} again.") from error
    if not isinstance(content, dict):
        raise LassError(f"{path} is no description of a {what}: expected a JSON object.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def fingerprint(tensors: nn.Module | dict[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that change whenever a weight or buffer of a module (or one of the tensors) does."""
    digest = hashlib.sha256()
    state = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class Artifact(nn.Module):
    """A module that can be saved to a folder (safetensors + JSON) and rebuilt from that folder alone.

    Subclasses are registered, keep their constructor's arguments in `self.config`, and set `kind`: "codec", "prior"
    or "features".
    """

    kind: str
    #: Weights stay in the file they are read from, mapped into memory, and keep its data type. For large modules, whose
    #: constructors do nothing but fill what the file replaces; so a subclass has to say it again.
    mapped: ClassVar[bool] = False
    config: dict[str, Any]
    #: Fingerprint of the codec whose codes this module was made for; None where it is a codec or was never trained.
    codec_fingerprint: str | None = None

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json` and `model.safetensors` into `folder` and return it."""
        folder = Path(folder)
        facts = {
            "class": type(self).__name__,
            "config": self.config,
            "codec_fingerprint": self.codec_fingerprint,
        }
        save_tensors(folder / WEIGHTS_FILE, dict(self.state_dict()), {"fingerprint": fingerprint(self)})
        write_json(folder / CONFIG_FILE, {"format": FORMAT, "kind": self.kind, **facts})
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Artifact:
        """Rebuild a module from its folder; see `load_artifact`."""
        return load_artifact(folder, cls.kind)


def load_artifact(folder: str | Path, kind: str) -> Artifact:
    """Rebuild the module that `save_pretrained` wrote, in eval mode on the CPU.

    Raises:
        LassError: if the folder is missing, damaged, or holds another kind of module.
    """
    folder = Path(folder)
    facts = read_json(folder / CONFIG_FILE, kind)
    if facts.get("kind") != kind:
        raise LassError(f"{folder} holds a {facts.get('kind')}, not a {kind}: name the folder of a {kind}.")
    mapped = vars(registered(facts.get("class"), folder / CONFIG_FILE)).get("mapped", False)
    with torch.device("meta") if mapped else contextlib.nullcontext():
        module = build({"class": facts.get("class"), **facts.get("config", {})}, folder / CONFIG_FILE)
    tensors, _ = load_tensors(folder / WEIGHTS_FILE, kind)
    try:
        module.load_state_dict(tensors, assign=mapped)
    except RuntimeError as error:
        raise LassError(
            f"{folder / WEIGHTS_FILE} and {CONFIG_FILE} beside it do not belong together: make the {kind} again."
        ) from error
    module.codec_fingerprint = facts.get("codec_fingerprint")
    return module.eval()
