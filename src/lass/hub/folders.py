"""From the name of a separator to its folder: a local folder, a published model, or a repository of the Hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lass.artifacts import missing
from lass.errors import LassError
from lass.hub.registry import PublishedModel, published_models
from lass.hub.repositories import is_repository, snapshot

CHECKOUT = Path(__file__).parents[3]  # root of the repository if lass is installed with --editable


def folder_of(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Return the folder of a separator, after downloading it where necessary. Nothing in it is executed.

    A folder that exists takes precedence over a published model of the same name, and that over the Hub.

    Args:
        name_or_folder: A folder, the name of a published model (`published_models`), or a repository of the Hugging
            Face Hub as organisation/name.
        revision: Branch, tag or commit of a repository of the Hub, default its main branch; None for folders and
            published models, which have one version.
        cache_dir: Folder of downloads, default that of huggingface_hub (`HF_HOME`).
        token: Access token of the Hub; default the one of `hf auth login`, False for none.
        local_files_only: Whether to use the Hub's cache only, without any request.
        force_download: Whether to download files that are in the cache.

    Raises:
        LassError: if there is no such folder, model or repository, if a revision of a folder or published model is
            asked for, if the Hub cannot be reached and the cache has no copy, if a file of a published model is not the
            published one, or if a repository has files that are too large or have unsafe names.
    """
    name = name_or_folder.as_posix() if isinstance(name_or_folder, Path) else name_or_folder
    folder = Path(name_or_folder)
    is_folder = folder.is_dir()
    model = None if is_folder else next((model for model in published_models() if model.name == name), None)
    if revision is not None and (is_folder or model is not None):
        what = "a folder" if is_folder else "a published model"
        raise LassError(f"{name} is {what}, which has no revision {revision!r}: leave the revision out.")
    if is_folder:
        return folder
    options: dict[str, Any] = {
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    if model is not None:
        return folder_of_published(model, **options)
    if not is_repository(name):
        raise _unknown(name)
    return snapshot(name, revision=revision, **options)


def folder_of_published(model: PublishedModel, **options: Any) -> Path:
    """Return the folder of a published model, after downloading it where necessary; all its files are verified.

    Args:
        model: The model, from `published_models`.
        options: Options of a download, see `folder_of`.

    Raises:
        LassError: see `folder_of`.
    """
    if model.folder is not None:
        for root in (Path(), CHECKOUT):
            if (root / model.folder).is_dir():
                return _verified(root / model.folder, model)
    if model.repository is None:
        raise LassError(
            f"The published model {model.name} is the folder {model.folder} of the repository of lass, which is not "
            "here: run the command in a clone of the repository, or give the path of that folder."
        )
    return _verified(snapshot(model.repository, revision=model.revision, **options), model)


def _verified(folder: Path, model: PublishedModel) -> Path:
    """Return the folder if all files of the published model in it have their SHA-256."""
    for name, expected in model.files.items():
        path = folder / name
        if not path.is_file():
            raise LassError(f"{path} of the published model {model.name} is missing: restore it.")
        if _sha256(path) != expected:
            raise LassError(
                f"{path} is not the file of the published model {model.name}, as its SHA-256 differs: restore it, or "
                f"load the folder as it is by its path, {folder.absolute()}."
            )
    return folder


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _unknown(name: str) -> LassError:
    if Path(name).name != name:
        return missing(Path(name), "separator")
    names = ", ".join(model.name for model in published_models())
    return LassError(
        f"There is no separator {name}: expected a folder, a published model ({names}), or a repository of the Hugging "
        "Face Hub as organisation/name."
    )
