"""Reads what an offline Weights & Biases run wrote: LevelDB's log format around protocol buffers."""

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
    """One run as it would be uploaded."""

    folder: Path
    started: int = 0  # in nanoseconds since 1970
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)  # what was logged together
    directions: dict[str, str] = field(default_factory=dict)  # "min" or "max", of scores whose best value is kept
    artifacts: dict[str, dict[str, Path]] = field(default_factory=dict)  # by type: names of files, and where they are

    @property
    def history(self) -> dict[str, list[Any]]:
        """Everything that was logged under each name, in order."""
        columns = defaultdict(list)
        for row in self.rows:
            for name, value in row.items():
                columns[name].append(value)
        return columns


def _records(data: bytes) -> Iterator[bytes]:
    position, collected = FILE_HEADER, b""
    while position + RECORD_HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:  # the end of a block is padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += RECORD_HEADER
        if position + length > len(data):  # the run was killed while it wrote this
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
    """The offline runs below `root/wandb`, oldest first; a run that was resumed left several.

    Raises:
        LassError: if there is none.
    """
    files = list((Path(root) / "wandb").glob("offline-run-*/run-*.wandb"))
    if not files:
        raise LassError(f"There is no offline run of Weights & Biases in {Path(root) / 'wandb'}.")
    return sorted(map(_read, files), key=lambda run: run.started)  # names of folders tell seconds only


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
    return run
