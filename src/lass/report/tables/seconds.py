"""Measured seconds for one mixture alone, in runs/tables/seconds-<dataset>.json: written by the benchmark, read here.

All methods of a dataset are measured by one process on one machine, so that their times can be compared.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from lass.artifacts import read_json, write_json
from lass.errors import LassError
from lass.report.tables.statistics import Estimate, estimate

OUTPUT = Path("runs/tables")


@dataclasses.dataclass(frozen=True)
class Timing(Estimate):
    """Mean of the seconds of several separations.

    Args:
        machine: What they were measured on, in words.
        values: Seconds of each separation.
    """

    machine: str = ""
    values: tuple[float, ...] = ()


def timing(values: Iterable[float], machine: str) -> Timing | None:
    """Timing of separations; None if there is no finite time."""
    values = tuple(map(float, values))
    found = estimate(values)
    return None if found is None else Timing(**dataclasses.asdict(found), machine=machine, values=values)


def describe_machine(device: str) -> dict[str, str | int]:
    """What times are measured on: device, its model, number of threads, version of torch."""
    if device.startswith("cuda"):
        model = torch.cuda.get_device_name(device)
    else:
        model = _processor()
    return {"device": device, "model": model, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    """Model of the CPU; what Python knows of it where there is no /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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


def read_seconds(path: Path) -> dict[str, Timing]:
    """Times by results folder; empty without a file.

    Raises:
        LassError: if the file is damaged.
    """
    if not path.is_file():
        return {}
    content = read_json(path, "file of measured times")
    try:
        machine = ", ".join(f"{name} {value}" for name, value in content["machine"].items())
        timings = {str(folder): timing(values, machine) for folder, values in content["seconds"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LassError(
            f"{path} holds no times of methods: delete it, and measure again with `make seconds`."
        ) from error
    return {folder: one for folder, one in timings.items() if one}
