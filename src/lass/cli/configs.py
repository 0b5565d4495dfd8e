"""Checks of the configs on a command line, before Lightning is imported."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from lass.cli.reporting import one_line
from lass.errors import LassError


def configs_in(words: Sequence[str]) -> list[str]:
    """Return the paths of the configs in the words of a command line."""
    paths = [path for option, path in pairwise(words) if option in ("-c", "--config")]
    paths += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    return [path for path in paths if "://" not in path]


def check_config(path: str) -> None:
    """Raise LassError unless a file is a config: a YAML dictionary in UTF-8."""
    if not Path(path).is_file():
        there = "is a folder" if Path(path).is_dir() else "does not exist"
        raise LassError(f"The config {path} {there}: name a YAML file, e.g. experiments/digits/prior.yaml.")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise LassError(f"The config {path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or one_line(error)
        raise LassError(f"The config {path} is damaged{where} ({reason}): expected YAML.") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise LassError(f"The config {path} {found}: expected the sections trainer, model and data.")
