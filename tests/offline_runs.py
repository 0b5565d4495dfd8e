"""Read offline Weights & Biases runs, which are protocol buffers in LevelDB's log format."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from lass.errors import LassError

BLOCK, FILE_HEADER, RECORD_HEADER = 32768, 7, 7
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """Content of one offline run."""

    folder: Path
    started: int = 0  # start time in nanoseconds since 1970
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)  # one dictionary of scores per logging call
    directions: dict[str, str] = field(default_factory=dict)  # score -> "min" or "max", if it is summarised by its best
    artifacts: dict[str, dict[str, Path]] = field(default_factory=dict)  # type -> name of a file -> its path
    summary: dict[str, Any] = field(default_factory=dict)  # by name, or name.min and name.max for the best of a score

    @property
    def history(self) -> dict[str, list[Any]]:
        """Logged values of each score, in order."""
        columns = defaultdict(list)
        for row in self.rows:
            for name, value in row.items():
                columns[name].append(value)
        return columns


def _records(data: bytes) -> Iterator[bytes]:
    position, collected = FILE_HEADER, b""
    while position + RECORD_HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:  # a record header does not fit into the rest of the block, which is padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += RECORD_HEADER
        if position + length > len(data):  # truncated record: the run was killed during the write
            return
        collected = (
            data[position : position + length]
            if kind in (FULL, FIRST)
            else collected + data[position : position + length]
        )
        position += length
        if kind in (FULL, LAST):
            yield collected


def read_offline_runs(root: str | Path) -> list[OfflineRun]:
    """Read all offline runs in `root/wandb`, oldest first; every resumption of a training is a run of its own.

    Raises:
        LassError: if there is none.
    """
    files = list((Path(root) / "wandb").glob("offline-run-*/run-*.wandb"))
    if not files:
        raise LassError(f"There is no offline run of Weights & Biases in {Path(root) / 'wandb'}.")
    return sorted(map(_read, files), key=lambda run: run.started)  # folder names have a resolution of 1 s


def _read(file: Path) -> OfflineRun:
    run = OfflineRun(file.parent)
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.group, run.job_type, run.tags = record.run.run_group, record.run.job_type, list(record.run.tags)
            run.started = record.run.start_time.ToNanoseconds()
            items = record.run.config.update
        elif kind == "config":
            items = record.config.update
        else:
            items = []
        for item in items:
            run.config["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        if kind == "metric" and (record.metric.summary.min or record.metric.summary.max):
            run.directions[record.metric.name] = "max" if record.metric.summary.max else "min"
        if kind == "artifact":
            files = {item.path: Path(item.local_path) for item in record.artifact.manifest.contents}
            run.artifacts.setdefault(record.artifact.type, {}).update(files)
        if kind == "history":
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            run.rows.append(row)
        if kind == "summary":
            for item in record.summary.update:
                name, value = "/".join(item.nested_key) or item.key, json.loads(item.value_json)
                best = isinstance(value, dict) and value.keys() <= {"min", "max"}
                run.summary |= {f"{name}.{key}": x for key, x in value.items()} if best else {name: value}
    return run
