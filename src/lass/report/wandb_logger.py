"""Weights & Biases without surprises: offline unless the user is logged in or said otherwise."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse

import wandb
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from pytorch_lightning.utilities import rank_zero_info


def is_logged_in() -> bool:
    """Whether wandb has a key for its server, found without asking the server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class WandbLogger(LightningWandbLogger):
    """Lightning's WandbLogger that never asks for a login, and without one never looks for a network.

    WANDB_MODE (online, offline, disabled) decides where it is set; otherwise a run is online if there is a key and
    offline if not. `wandb sync` uploads offline runs later.

    Args:
        group: the dataset; runs are grouped by it.
        job_type: the stage.
        name: of the run.
        save_dir: folder of the run; `wandb/` is made in it.
        project: in Weights & Biases.
        tags: for finding the run again.
    """

    def __init__(
        self,
        group: str,
        job_type: str,
        name: str | None = None,
        save_dir: str = ".",
        project: str = "lass",
        tags: list[str] | None = None,
    ) -> None:
        mode = os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        if mode == "offline":
            latest = Path(save_dir) / "wandb" / "latest-run"
            rank_zero_info(f"Weights & Biases: offline; `wandb sync {latest}` uploads this run later.")
        super().__init__(
            name=name or f"{group}-{job_type}",
            save_dir=str(Path(save_dir).resolve()),  # wandb would take it from where the process was at its first run
            project=project,
            group=group,
            job_type=job_type,
            tags=tags or [group, job_type],
            mode=mode,
            settings=wandb.Settings(silent=mode == "offline"),  # its hints are replaced by the one line above
        )
        self._wandb_init.pop("anonymous", None)  # Lightning always gives it, and wandb always warns that it is obsolete
