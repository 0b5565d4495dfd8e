"""Helper for Weights & Biases runs in tests."""

from __future__ import annotations

import wandb


def finish_run() -> None:
    """End the current run and wait until its log is on disk.

    `wandb.finish` returns before the service has written the log; `wandb.teardown` waits until the service has ended.
    """
    wandb.finish()
    wandb.teardown()
