"""Weights & Biases logger that falls back to an offline run without a login or a reachable server."""

from __future__ import annotations

import contextlib
import netrc
import os
import shlex
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import wandb
from pydantic import ValidationError
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_info

from lass.errors import LassError

SERVER = "https://api.wandb.ai"
OFFLINE_MODES, OTHER_MODES = ("offline", "dryrun"), ("online", "disabled", "shared", "run")  # values of WANDB_MODE
PATIENCE = 2.0  # timeout of a connection in seconds


def server() -> str:
    """Return the URL of the server that wandb uses."""
    return os.environ.get("WANDB_BASE_URL") or SERVER


def is_logged_in() -> bool:
    """Whether wandb has credentials for its server; checked locally, without a request."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def is_reachable(address: str, patience: int | float = PATIENCE) -> bool:
    """Whether a server, or its configured proxy, accepts a TCP connection within `patience` seconds."""
    try:
        url = urlsplit(address)
    except ValueError:  # malformed URL
        return False
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    answered = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError, ValueError):
            port = url.port or {"http": 80}.get(url.scheme, 443)
            socket.create_connection((url.hostname or "", port), timeout=patience).close()
            answered.set()

    # In a thread, because a DNS lookup has no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(patience)
    return answered.is_set()


def check_environment() -> None:
    """Raise LassError if an environment variable of wandb has an invalid value."""
    mode = os.environ.get("WANDB_MODE")
    if mode and mode not in OFFLINE_MODES + OTHER_MODES:
        raise LassError(f"WANDB_MODE must be online, offline or disabled, not {mode!r}.")
    try:
        wandb.Settings().update_from_env_vars(dict(os.environ))
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        given = f"{first['input']!r:.100}"
        reason = first["msg"].removeprefix("Value error, ")
        raise LassError(f"Weights & Biases does not take WANDB_{name}={given} ({reason}).") from error
    except (wandb.Error, ValueError, TypeError) as error:
        raise LassError(f"Weights & Biases does not take one of its environment variables: {error}.") from error


class WandbLogger(LightningWandbLogger):
    """Lightning's WandbLogger without login prompts and without waiting for an unreachable server.

    WANDB_MODE (online, offline, disabled) sets the mode. If it is not set, a run is online if wandb has a key and
    offline otherwise. An online run becomes an offline run, with one line of explanation, if there is no key, if the
    server cannot be reached, or if the server refuses the run. At the end of a run, one line tells its address, or its
    folder and the command that uploads it.

    Args:
        group: Name of the dataset, by which runs are grouped.
        job_type: Name of the stage.
        name: Name of the run, default `<group>-<job_type>`.
        save_dir: Folder of the run; `wandb/` is created in it when the run starts.
        project: Project in Weights & Biases.
        tags: Tags of the run, default group and job_type.

    Raises:
        LassError: if an environment variable of wandb has an invalid value.
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
        check_environment()
        mode = os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")
        super().__init__(
            name=name or f"{group}-{job_type}",
            save_dir=str(Path(save_dir).resolve()),  # wandb would resolve it in the first run's working directory
            project=project,
            group=group,
            job_type=job_type,
            tags=tags or [group, job_type],
            mode="offline" if mode in OFFLINE_MODES else mode,
        )
        self._wandb_init.pop("anonymous", None)  # set by Lightning, deprecated by wandb with a warning

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run, started on first access."""
        if self._experiment is not None or wandb.run is not None or self._wandb_init["mode"] == "disabled":
            return super().experiment
        Path(str(self._save_dir)).mkdir(parents=True, exist_ok=True)  # otherwise wandb uses a temporary folder
        if self._wandb_init["mode"] == "offline":
            return self._offline_experiment()
        if not is_logged_in():
            return self._offline_experiment("there is no key, which `wandb login` makes")
        if not is_reachable(server()):
            return self._offline_experiment(f"{urlsplit(server()).hostname} cannot be reached")
        try:
            return super().experiment
        except (wandb.Error, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return self._offline_experiment(f"the server refused it ({reason})")

    def finalize(self, status: str) -> None:
        """Tell where the run is; Lightning calls this at the end of a run, also after an error or Ctrl-C."""
        super().finalize(status)
        run = self._experiment
        if run is None or run.disabled:
            return
        if not run.offline:
            rank_zero_info(f"Weights & Biases: the run is at {run.url}")
            return
        folder = Path(run.dir).parent  # run.dir is the folder of its files
        if folder.is_relative_to(Path.cwd()):
            folder = folder.relative_to(Path.cwd())
        rank_zero_info(f"Weights & Biases: this run is offline, `wandb sync {shlex.quote(str(folder))}` uploads it.")

    def _offline_experiment(self, reason: str = "") -> Any:
        if reason:
            rank_zero_info(f"Weights & Biases: this run is offline, as {reason}.")
        # Silence wandb's own hints, which the lines above replace.
        self._wandb_init.update(mode="offline", settings=wandb.Settings(silent=True))
        return super().experiment
