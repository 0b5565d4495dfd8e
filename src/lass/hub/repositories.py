"""Repositories of the Hugging Face Hub: their files are checked by name and size before they are downloaded."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # base class of all errors of huggingface_hub's HTTP client, which is httpx or httpx2
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

from lass.errors import LassError, path_component

#: Files of a repository that are downloaded: weights, settings and the model card. All others are left where they are.
DOWNLOADED = ["*.safetensors", "*.json", "README.md"]
HIDDEN = [".[!.]*", "*/.[!.]*"]  # names with .. are not left out, but refused
MAX_FILES = 200
MAX_BYTES = 2**36  # 64 GiB; the largest published models that can be imported have 6 GB
MAX_TEXT_BYTES = 2**20


def is_repository(name: str) -> bool:
    """Whether `name` has the form of a repository of the Hub, organisation/name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def snapshot(
    repository: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Download a separator's files from the Hub, unless they are in the cache, and return their folder in the cache.

    If the Hub cannot be reached, the copy in the cache is returned. Arguments and errors: see `lass.hub.folder_of`.
    """
    api, reason, commit = HfApi(token=token), None, None
    if not (local_files_only or constants.is_offline_mode()):
        try:
            info = api.model_info(repository, revision=revision, files_metadata=True)
        except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise _refused(repository, revision, error) from error
        except (HTTPError, OSError, ValueError) as error:  # ValueError: an answer that is no JSON, e.g. a login page
            reason = _first_line(error)
        else:
            commit = info.sha
            sizes = {file.rfilename: file.size for file in info.siblings or ()}
            check_files(repository, sizes, Path(cache_dir or constants.HF_HUB_CACHE))
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=commit is None,
                force_download=force_download and commit is not None,
                allow_patterns=DOWNLOADED,
                ignore_patterns=HIDDEN,
            )
        )
    except (HTTPError, OSError, ValueError) as error:
        raise _unavailable(repository, revision, reason, error, commit is not None) from error
    if commit not in (None, folder.name):
        raise LassError(f"{repository} changed on the Hub while it was downloaded: try again.")
    return folder


def check_files(repository: str, sizes: Mapping[str, int | None], cache: Path) -> None:
    """Raise LassError if the files that would be downloaded have unsafe names, are too many or too large.

    Args:
        repository: Name of the repository, for errors.
        sizes: Declared size in bytes of each file, by its path in the repository.
        cache: Folder of downloads, whose disk must have room for them.
    """
    names = list(filter_repo_objects(sizes, allow_patterns=DOWNLOADED, ignore_patterns=HIDDEN))
    for part in {part for name in names for part in name.split("/")}:
        path_component(part, repository)
    if "separator.json" not in names:
        raise LassError(f"{repository} on the Hub has no separator.json: expected what Separator.push_to_hub writes.")
    if len(names) > MAX_FILES:
        raise LassError(f"{repository} on the Hub has {len(names)} files, expected at most {MAX_FILES}.")
    total = 0
    for name in names:
        size, most = sizes[name], MAX_BYTES if name.endswith(".safetensors") else MAX_TEXT_BYTES
        if size is None or not 0 <= size <= most:
            raise LassError(
                f"{name} of {repository} on the Hub has a declared size of {size} bytes, expected at most {most}: "
                "nothing was downloaded."
            )
        total += size
    existing = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    if total > (free := shutil.disk_usage(existing).free):
        raise LassError(
            f"{repository} on the Hub has {total / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free at {cache}: "
            "make room, or choose another folder with cache_dir or HF_HOME."
        )


@contextlib.contextmanager
def uploading(repository: str) -> Iterator[None]:
    """Raise errors of an upload to a repository of the Hub as LassError of one sentence."""
    if not is_repository(repository):
        raise LassError(f"{repository!r} is no repository of the Hugging Face Hub: expected organisation/name.")
    try:
        yield
    except (HTTPError, OSError) as error:
        if isinstance(error, LocalTokenNotFoundError) or _status(error) == 401:
            raise LassError(
                f"{repository} was not uploaded, as there is no valid access token: make one with write access on the "
                "page of your account, and log in with `hf auth login`."
            ) from error
        if _status(error) == 403:
            raise LassError(f"{repository} was not uploaded: your access token has no write access to it.") from error
        raise LassError(f"{repository} was not uploaded to the Hugging Face Hub ({_first_line(error)}).") from error


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _refused(repository: str, revision: str | None, error: Exception) -> LassError:
    if isinstance(error, GatedRepoError):
        return LassError(
            f"{repository} is a gated model of the Hugging Face Hub: ask for access on its page, then log in with "
            "`hf auth login`."
        )
    if isinstance(error, RevisionNotFoundError):
        return LassError(f"{repository} on the Hub has no revision {revision!r}: expected a branch, tag or commit.")
    return LassError(
        f"There is no folder {repository}, and no model of this name on the Hugging Face Hub: correct the name, or log "
        "in with `hf auth login` if the model is private."
    )


def _unavailable(
    repository: str, revision: str | None, reason: str | None, error: Exception, online: bool
) -> LassError:
    if online:
        return LassError(f"{repository} could not be downloaded from the Hub ({_first_line(error)}): try again.")
    of = f" in revision {revision!r}" if revision else ""
    why = f"the Hub cannot be reached ({reason})" if reason else "requests to the Hub are switched off"
    return LassError(
        f"There is no folder {repository}, and no complete copy of this model{of} in the Hugging Face Hub's cache, "
        f"while {why}: name a folder, or try again with a connection."
    )
