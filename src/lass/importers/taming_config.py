"""Configuration files of taming-transformers: YAML whose values are checked where they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lass.errors import LassError

PROGRAM = "taming-transformers"
MAX_CONFIG = 2**20  # bytes of a configuration; published ones have a few thousand
MAX_SIZE = 2**20  # maximum of any size in a configuration


@dataclass(frozen=True)
class Section:
    """One mapping of a configuration file; accessors check type and range of each value.

    Args:
        values: Entries of the mapping.
        whole: The whole configuration, for interpolations such as `${model.params.embed_dim}`.
        file: Path of the configuration, for error messages.
        name: Dotted prefix of the mapping in the file, such as `model.params.`.
    """

    values: Mapping[Any, Any]
    whole: Mapping[Any, Any]
    file: Path
    name: str = ""

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, default: Any = None) -> Any:
        """Value of a key, with an interpolation `${...}` resolved."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or "${" not in value:
            return value
        referred: Any = self.whole
        for part in value.removeprefix("${").removesuffix("}").split("."):
            referred = referred.get(part) if isinstance(referred, Mapping) else None
        if referred is None or (isinstance(referred, str) and "${" in referred):
            raise self.wrong(key, "a value, or ${...} with the full name of another key that has one", value)
        return referred

    def need(self, key: str) -> Any:
        """Value of a required key."""
        if key not in self:
            raise LassError(f"{self.file} has no {self.name}{key}: expected the configuration of a model of {PROGRAM}.")
        return self.get(key)

    def section(self, key: str) -> Section:
        """Nested mapping of a required key."""
        values = self.need(key)
        if not isinstance(values, Mapping):
            raise self.wrong(key, "a mapping of names to values", values)
        return Section(values, self.whole, self.file, f"{self.name}{key}.")

    def integer(self, key: str, default: int | None = None, at_least: int = 1, at_most: int = MAX_SIZE) -> int:
        """Integer value within limits; accepts digits in a string and whole floats. Required without `default`."""
        value = self.need(key) if default is None else self.get(key, default)
        return self._integer(key, value, at_least, at_most)

    def integers(self, key: str, default: list[int] | None = None, at_most: int = MAX_SIZE) -> list[int]:
        """List of at most `at_most` positive integers. Required without `default`."""
        values = self.need(key) if default is None else self.get(key, default)
        if not isinstance(values, list) or len(values) > at_most:
            raise self.wrong(key, f"a list of at most {at_most} integers", values)
        return [self._integer(key, value, 1, MAX_SIZE) for value in values]

    def flag(self, key: str, default: bool = False) -> bool:
        """Boolean value; accepts the strings "true" and "false" in any case."""
        value = self.get(key, default)
        value = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false", value)
        return value

    @property
    def kind(self) -> str:
        """Name of the class that the section describes (`target`), without its module."""
        target = self.need("target")
        if not isinstance(target, str):
            raise self.wrong("target", "the name of a class", target)
        return target.rpartition(".")[2]

    def _integer(self, key: str, value: Any, at_least: int, at_most: int) -> int:
        is_text = isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value.strip())
        is_whole = isinstance(value, float) and value.is_integer()
        number = int(value) if is_text or is_whole else value
        if type(number) is not int or not at_least <= number <= at_most:
            raise self.wrong(key, f"an integer from {at_least} to {at_most}", value)
        return number

    def wrong(self, key: str, expected: str, value: Any) -> LassError:
        """Error for an invalid value; the value is abbreviated, because a file can make it arbitrarily long."""
        is_short = value is None or isinstance(value, bool | float | str) or (type(value) is int and abs(value) < 2**64)
        came = f"{value!r:.60}" if is_short else f"a {'longer number' if type(value) is int else type(value).__name__}"
        return LassError(f"{self.file}: {self.name}{key} must be {expected}, not {came}.")


def read_model_section(config: Path) -> Section:
    """Section `model` of a configuration; raises LassError if the file has none."""
    try:
        if not config.is_file():
            raise LassError(f"There is no configuration at {config}: it is the YAML file beside the checkpoint.")
        if config.stat().st_size > MAX_CONFIG:
            raise LassError(f"{config} is too large for a configuration: name the YAML file beside the checkpoint.")
        content = yaml.safe_load(config.read_bytes())
    except LassError:
        raise
    except OSError as error:
        raise LassError(f"{config} cannot be read ({error.strerror}): check the name and its permissions.") from error
    except Exception as error:  # PyYAML raises many kinds of exceptions for values that do not fit their tag
        raise LassError(f"{config} is no single YAML document: name the one beside the checkpoint.") from error
    if not isinstance(content, Mapping):
        raise LassError(f"{config} has no model: expected the configuration of a model of {PROGRAM}.")
    return Section(content, content, config).section("model")
