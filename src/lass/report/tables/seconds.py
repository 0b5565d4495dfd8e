"""Measured seconds for one mixture alone, in runs/tables/seconds-<dataset>.json: written by the benchmark, read here.

All methods of a dataset are measured by one process on one machine, so that their times can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lass.artifacts import read_json, write_json
from lass.errors import LassError
from lass.report.tables.statistics import Estimate, estimate

OUTPUT = Path("runs/tables")


def seconds_file(dataset: str, output: str | Path = OUTPUT) -> Path:
    """Path of the times of a dataset's methods."""
    return Path(output) / f"seconds-{dataset}.json"


def write_seconds(path: Path, machine: Mapping[str, str | int], times: Mapping[str, Sequence[float]]) -> None:
    """Write the times of all methods.

    Args:
        path: JSON file.
        machine: What they were measured on, by name: device, number of threads, version of torch.
        times: Seconds of each repetition, by the results folder of the method.
    """
    write_json(path, {"machine": dict(machine), "seconds": {folder: list(values) for folder, values in times.items()}})


def read_seconds(path: Path) -> dict[str, Estimate]:
    """Mean and deviation of the times by results folder; empty without a file.

    Raises:
        LassError: if the file is damaged.
    """
    if not path.is_file():
        return {}
    times = read_json(path, "file of measured times").get("seconds")
    try:
        estimates = {str(folder): estimate(map(float, values)) for folder, values in times.items()}  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError) as error:
        raise LassError(
            f"{path} holds no times of methods: delete it, and measure again with `make seconds`."
        ) from error
    return {folder: values for folder, values in estimates.items() if values}


def describe_machine(path: Path) -> str:
    """What the times were measured on, in words; empty without a file."""
    machine = read_json(path, "file of measured times").get("machine") if path.is_file() else None
    return ", ".join(f"{name} {value}" for name, value in machine.items()) if isinstance(machine, dict) else ""
