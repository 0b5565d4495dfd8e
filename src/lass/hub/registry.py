"""The list of published separators, `published.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

Kind = Literal["image", "audio"]


@dataclass(frozen=True)
class PublishedModel:
    """One published separator.

    Args:
        name: Name by which it is loaded, e.g. "mnist".
        kind: Signals that it separates.
        description: One line on its mixtures.
        licence: SPDX identifier of the licence of its weights.
        training_data: Data on which it was trained.
        num_sources: Number of sources in a mixture, unless another is asked for.
        files: SHA-256 of each of its files, by path in its folder.
        folder: Folder of this repository that holds it, or None.
        repository: Repository of the Hugging Face Hub that holds it, organisation/name, or None.
        revision: Commit of that repository, or None.
    """

    name: str
    kind: Kind
    description: str
    licence: str
    training_data: str
    num_sources: int
    files: Mapping[str, str]
    folder: str | None = None
    repository: str | None = None
    revision: str | None = None


@cache
def published_models() -> tuple[PublishedModel, ...]:
    """Return all published separators, in the order of the list."""
    entries = yaml.safe_load(files("lass.hub").joinpath("published.yaml").read_text(encoding="utf-8"))
    return tuple(PublishedModel(**entry) for entry in entries)


def default_for(kind: Kind) -> PublishedModel | None:
    """Return the separator that is used for a kind of signal unless another is named; None if there is none.

    Example:
        >>> default_for("image").name
        'mnist'
    """
    return next((model for model in published_models() if model.kind == kind), None)
