"""Protocol of a separation method, what some methods have in addition, and the defaults for those that do not."""

# M mixtures, S sources

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from lass.artifacts import fingerprint
from lass.codecs import Codec
from lass.errors import LassError
from lass.separation import SeparationResult

F = TypeVar("F", bound=Callable[..., Any])


def _any_annotations(method: F) -> F:
    """Remove the annotations of a protocol's method at run time.

    The command line refuses a class whose annotations differ from those of a protocol. Without annotations it compares
    names and defaults only, so that a method may leave out annotations, or annotate shapes.
    """
    method.__annotations__.clear()
    return method


@runtime_checkable
class SeparationMethod(Protocol):
    """A method that separates a batch of mixtures. No base class is needed.

    `lass.Separator` is one. A method may also have the members of `FixedNumMethod`, `ExchangeableMethod`,
    `WeightedMethod`, `ConfiguredMethod`, `FittedMethod`, `DataCheckingMethod`, `MovableMethod`, `OracleMethod` and
    `lass.artifacts.Savable`. It may be an `nn.Module`, which is then moved to the device and set to evaluation mode.
    """

    @_any_annotations
    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> SeparationResult:
        """Separate a batch of mixtures. The result of a mixture must not depend on the rest of the batch.

        Args:
            mixtures: (M, channels, *space) float32: images in [0, 1], or audio in [-1, 1]. On the device of the run if
                the method has `to`, otherwise on the CPU.
            conditions: (M, S) classes of the sources, for weakly supervised separation, otherwise None.
            seed: Seed of all randomness.
            indices: Index of each mixture, default 0…M-1; random numbers are a function of (seed, index).

        Returns:
            Estimates (M, S, channels, *space) at the scale of the sources. Mixed with the weights of the data, by
            default 1/S each, they should give the mixture. All other fields of the result are optional.
        """
        ...


@runtime_checkable
class FixedNumMethod(Protocol):
    """A method for one number of sources."""

    num_sources: int  #: S


@runtime_checkable
class ExchangeableMethod(Protocol):
    """A method that knows which of its estimates may be assigned to which source. By default all are exchangeable."""

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Groups of exchangeable estimates, (num_mixtures, S) long: equal numbers within a group.

        The number of a group is the position of its first estimate. Where each estimate has a role, for example drums
        and bass, the groups are 0…S-1.
        """
        ...


@runtime_checkable
class WeightedMethod(Protocol):
    """A method that needs the weights of the sources in a mixture; stage 4 sets them to those of the data."""

    mixing_weights: Sequence[float] | None  #: one per source; None for the mean, 1/S each


@runtime_checkable
class ConfiguredMethod(Protocol):
    """A method that names its settings, see `identity_of`."""

    @property
    def settings(self) -> dict[str, Any]:
        """All settings on which estimates depend, as JSON-serialisable values."""
        ...


@runtime_checkable
class FittedMethod(Protocol):
    """A method with fitted or trained parts, see `identity_of`."""

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each part by name, see `lass.artifacts.fingerprint`."""
        ...


@runtime_checkable
class DataCheckingMethod(Protocol):
    """A method that was trained for some data only."""

    def check_data(self, data: object) -> None:
        """Raise LassError if a data module has another sample rate, other classes or other weights of the sources."""
        ...


@runtime_checkable
class MovableMethod(Protocol):
    """A method that computes on a device."""

    def to(self, device: torch.device | str) -> Any:
        """Move the method to a device."""
        ...


@runtime_checkable
class CodecMethod(Protocol):
    """A method that works on the codes of a codec, whose reconstructions of the sources are then scored as well."""

    codec: Codec


@runtime_checkable
class OracleMethod(Protocol):
    """An upper bound that is computed from the true sources, given as a further argument of `separate_batch`:
    `sources`, (M, S, channels, *space).
    """

    needs_sources: bool


def needs_sources(method: SeparationMethod) -> bool:
    """Whether a method is an oracle."""
    return isinstance(method, OracleMethod) and method.needs_sources


def groups_of(method: SeparationMethod, conditions: Tensor | None, num_mixtures: int, num_sources: int) -> Tensor:
    """Groups of exchangeable estimates, (num_mixtures, num_sources) long, see `ExchangeableMethod`.

    Raises:
        LassError: if the method gives groups of another shape.
    """
    if not isinstance(method, ExchangeableMethod):
        return torch.zeros(num_mixtures, num_sources, dtype=torch.long)
    groups = method.exchangeable(conditions, num_mixtures)
    if groups.shape != (num_mixtures, num_sources):
        raise LassError(
            f"{type(method).__name__}.exchangeable gave groups of shape {tuple(groups.shape)}: expected one number for "
            f"each source of each mixture, {(num_mixtures, num_sources)}."
        )
    return groups


def identity_of(method: object) -> dict[str, Any]:
    """A method's settings and the fingerprints of its parts, as JSON-serialisable values.

    Results are only resumed by a method of equal class and identity. The defaults, for methods without `settings` or
    `fingerprints`, are public attributes with values that JSON can hold, and public attributes that are paths, tensors,
    NumPy arrays or modules, together with the weights of a method that is an `nn.Module`. The code is not part of it.

    Raises:
        LassError: if a public attribute is none of these, so that its value could not be compared.
    """
    attributes = dict(getattr(method, "__dict__", {}))  # a dataclass with slots has none
    if dataclasses.is_dataclass(method):
        attributes |= {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    public = {name: value for name, value in attributes.items() if name[0] != "_" and name != "training"}
    if isinstance(method, ConfiguredMethod):
        settings = method.settings
    else:
        public = {name: str(value) if isinstance(value, Path) else value for name, value in public.items()}
        settings = {name: value for name, value in public.items() if _is_json(value)}
    if isinstance(method, FittedMethod):
        fingerprints = method.fingerprints()
    else:
        fingerprints = {name: fingerprint(value) for name, value in public.items() if isinstance(value, nn.Module)}
        for name, value in public.items():
            if isinstance(value, Tensor | np.ndarray):
                fingerprints[name] = fingerprint({name: torch.as_tensor(value)})
        fingerprints |= {"weights": fingerprint(method)} if isinstance(method, nn.Module) else {}
    for name, value in public.items():
        if not (isinstance(method, ConfiguredMethod | FittedMethod) or name in settings or name in fingerprints):
            raise LassError(
                f"{type(method).__name__}.{name} holds a {type(value).__name__}, which cannot be stored with the "
                "results: give the method a property `settings`, or start the attribute's name with an underscore."
            )
    return {**settings, **fingerprints}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def checked_estimates(
    method: SeparationMethod, result: object, mixtures: Tensor, num_sources: int, indices: Sequence[int]
) -> Tensor:
    """Return the estimates of a result, in the data type and on the device of the mixtures.

    Args:
        method: Method that gave the result, for errors.
        result: What `separate_batch` returned.
        mixtures: (M, channels, *space).
        num_sources: Number S of sources of the data.
        indices: Index of each mixture, for errors.

    Returns:
        (M, S, channels, *space).

    Raises:
        LassError: if there is no SeparationResult, or if its estimates have another shape, NaN or infinite values.
    """
    name = type(method).__name__
    if not isinstance(result, SeparationResult):
        raise LassError(
            f"{name}.separate_batch returned a {type(result).__name__}: expected lass.SeparationResult(estimates)."
        )
    expected = (len(mixtures), num_sources, *mixtures.shape[1:])
    if result.estimates.shape != expected:
        raise LassError(
            f"{name} gave estimates of shape {tuple(result.estimates.shape)} for {num_sources} sources and mixtures of "
            f"shape {tuple(mixtures.shape)}: expected {expected}, (mixtures, sources, channels, *space)."
        )
    estimates = result.estimates.to(mixtures)
    is_finite = estimates.flatten(1).isfinite().all(1).tolist()
    if not all(is_finite):
        raise LassError(
            f"{name} gave NaN or infinite values for mixture {indices[is_finite.index(False)]}: expected finite "
            "estimates, for example zeros for a source that it does not find."
        )
    return estimates
