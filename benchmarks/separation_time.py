"""Time of one separation (Table 4) for all methods of a dataset: one mixture alone, ten repetitions, in one process.

python benchmarks/separation_time.py mnist    # all methods in the tables that have results; make seconds DATASET=mnist
python benchmarks/separation_time.py mnist --folders runs/mnist/nmf runs/mnist/pretrained

A method is made from the config.yaml of its results folder. The times are written to runs/tables/seconds-DATASET.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lass import LassError
from lass.data.mixing import mix
from lass.data.module import SourceDataModule, weights_of
from lass.methods.protocol import MovableMethod, OracleMethod, SeparationMethod, WeightedMethod
from lass.report.tables.configured import from_config
from lass.report.tables.definition import all_tables, load_table
from lass.report.tables.seconds import OUTPUT, describe_machine, seconds_file, write_seconds


def folders_of(dataset: str) -> list[str]:
    """Results folders of a dataset's rows in all tables of scores that have been run, in the order of the tables."""
    tables = [load_table(key) for key in all_tables()]
    rows = [
        row
        for table in tables
        if table.kind == "scores"
        for part in table.parts
        if part.dataset == dataset
        for row in part.rows
    ]
    folders = dict.fromkeys(run.folder for row in rows for run in row.runs)
    return [folder for folder in folders if (Path(folder) / "config.yaml").is_file()]


def load(folder: str, device: str) -> tuple[SeparationMethod, Tensor, Tensor | None]:
    """Method of a results folder, and the first of its mixtures, (1, channels, *space), with its classes or None."""
    task: Any = from_config(folder, "model", LightningModule)
    data = from_config(folder, "data", SourceDataModule)
    data.setup("predict")
    method = task.method
    if isinstance(method, OracleMethod):
        raise LassError("an oracle computes its estimates from the true sources.")
    if isinstance(method, WeightedMethod):
        method.mixing_weights = weights_of(data)
    if isinstance(method, torch.nn.Module):
        method.eval()
    if isinstance(method, MovableMethod):
        method.to(device)
    else:
        device = "cpu"
    first = data.predict_dataloader().dataset.__getitems__([0])
    mixtures = mix(first.signals, weights_of(data)).to(device)
    return method, mixtures, first.labels.to(device) if task.conditional else None


def seconds_of(folder: str, repetitions: int, device: str) -> list[float]:
    """Seconds of each of `repetitions` separations with seeds 0, 1, …, after one to warm up."""
    method, mixtures, classes = load(folder, device)
    times = []
    for seed in [0, *range(repetitions)]:
        begun = time.perf_counter()
        with torch.inference_mode():  # as Lightning's predict does
            method.separate_batch(mixtures, classes, seed=seed, indices=[0])
        if mixtures.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return times[1:]


def main() -> None:
    """Measure and print all times, and write them."""
    parser = argparse.ArgumentParser(description="Seconds for one mixture alone, for all methods of a dataset.")
    parser.add_argument("dataset", nargs="?", default="mnist")
    parser.add_argument("--folders", nargs="*", help="results folders; default those of all tables")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    folders = options.folders or folders_of(options.dataset)
    if not folders:
        raise LassError(f"No method of {options.dataset} has results: `make eval-{options.dataset}` makes some.")
    times = {}
    machine = describe_machine(options.device)
    print(f"{options.device}, {torch.get_num_threads()} threads, {options.repetitions} separations each")
    for folder in folders:
        try:
            times[folder] = seconds_of(folder, options.repetitions, options.device)
        except LassError as error:
            print(f"{folder}: left out, {error}", flush=True)
            continue
        deviation = statistics.stdev(times[folder]) if options.repetitions > 1 else float("nan")
        print(f"{folder:30} {statistics.mean(times[folder]):8.3f} ± {deviation:.3f} s", flush=True)
    if times:
        path = seconds_file(options.dataset, OUTPUT)
        write_seconds(path, machine, times)
        print(f"Times: {path}")


if __name__ == "__main__":
    try:
        main()
    except LassError as error:
        sys.exit(f"lass: {error}")
