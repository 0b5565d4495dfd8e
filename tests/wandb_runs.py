"""Runs of Weights & Biases in tests."""

from __future__ import annotations

import wandb


def finish_run() -> None:
    """End the current run and wait until its log is on disk.

    `wandb.finish` returns as soon as the service has been told; `wandb.teardown` waits until the service has ended.
    """
    wandb.finish()
    wandb.teardown()
