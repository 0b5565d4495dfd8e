"""Objects of a run from the config that it left in its results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from lass.errors import LassError


def from_config(folder: str | Path, section: str, base: type) -> Any:
    """Instantiate `model` or `data` of config.yaml.

    Args:
        folder: Results folder.
        section: Name in the config.
        base: Class that the object must be an instance of.

    Raises:
        LassError: if there is no config, or if it is not of this version.
    """
    path = Path(folder) / "config.yaml"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, section)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return getattr(parser.instantiate(parser.parse_object({section: content[section]})), section)
    except LassError:
        raise
    except Exception as error:  # jsonargparse raises many kinds for configs of other versions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LassError(f"{path} is no config of this version ({reason:.200}): run its command again.") from error
