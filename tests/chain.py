"""Run the stages of an experiment at reduced size; used by several test modules."""

from __future__ import annotations

import os
import subprocess
import sys

from wandb_runs import finish_run

from lass.cli.main import main

SMALL = {
    "vqvae": [
        "--trainer.max_epochs=6",
        "--trainer.check_val_every_n_epoch=3",
        "--model.codec.init_args.width=16",
        "--model.codec.init_args.num_codes=16",
    ],
    "prior": [
        "--trainer.max_epochs=4",
        "--model.prior.init_args.dim=16",
        "--model.prior.init_args.num_layers=1",
        "--model.prior.init_args.num_codes=16",
    ],
    "likelihood": ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=1"],
    "separate": [
        "--data.num_mixtures=6",
        "--data.batch_size=4",
        "--model.sampler.init_args.num_candidates=64",  # so that each mixture has separate passes through the priors
        "--model.refinement.init_args.steps=5",
    ],
}


def lass(repository, stage, *options, sizes=SMALL):
    """Run a stage in this process, with its config in experiments/digits and the overrides in `sizes`."""
    command = "predict" if stage == "separate" else "fit"
    config = str(repository / "experiments" / "digits" / f"{stage}.yaml")
    stored = [f"--data.mixtures={repository / 'experiments/digits/test_mixtures.csv'}"] if stage == "separate" else []
    try:
        main([command, "-c", config, "--trainer.enable_progress_bar=false", *stored, *sizes[stage], *options])
    finally:
        finish_run()


def in_processes(repository, stage, *options):
    """Start a stage in a new process, and return the process."""
    config = str(repository / f"experiments/digits/{stage}.yaml")
    command = [sys.executable, "-m", "lass.cli", "predict" if stage == "separate" else "fit", "-c", config]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = ["--trainer.enable_progress_bar=false", *SMALL[stage], *options]
    return subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE)
