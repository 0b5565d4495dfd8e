"""The results folder of a separation run: written while it goes on, read back to resume it and to report on it.

config.yaml             the resolved configuration
settings.json           what a resumed run must agree with
mixtures/NNNNNN.safetensors   one mixture: estimates, codes, entropy by position, and its row of the table
results.csv             one row per mixture
summary.json            mean, standard deviation and number for every score
separations.png         mixture | estimates | sources | residual
entropy.png             how much the candidates differ, by position
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from lass.artifacts import atomic_write, load_tensors, read_json, save_tensors, write_json
from lass.errors import LassError

Row = dict[str, int | float]

CONTENT = 2  # raised when files of mixtures hold more than before, so that old ones are not gone on with


class ResultsFolder:
    """One run's results.

    Args:
        root: the folder; made when something is written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def start(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Begin a run, or go on with a half-finished one.

        Raises:
            LassError: if the folder holds results that were made with other settings.
        """
        path = self.root / "settings.json"
        settings = json.loads(json.dumps({**settings, "content": CONTENT}))  # as it will be read back
        # A run that was refused before its first mixture, for lack of memory or the like, has nothing to lose.
        may_lose = path.exists() and any(self.root.glob("mixtures/*.safetensors")) and not overwrite
        if may_lose and (there := read_json(path, "run's settings")) != settings:
            if there.get("content") != CONTENT:
                raise LassError(
                    f"{self.root} holds results of another version of lass: choose another folder with "
                    "--trainer.default_root_dir, or replace them with --model.overwrite=true."
                )
            changed = [name for name in settings if there.get(name) != settings[name]]
            raise LassError(
                f"{self.root} holds results made with other settings ({', '.join(changed)}): choose another folder "
                "with --trainer.default_root_dir, or replace them with --model.overwrite=true."
            )
        if overwrite:
            for file in self.root.glob("mixtures/*.safetensors"):
                file.unlink()
        write_json(path, settings)

    def has(self, index: int) -> bool:
        """Whether a mixture is done; a file that cannot be read counts as missing."""
        try:
            self.read(index)
        except LassError:
            return False
        return True

    def write(self, index: int, tensors: dict[str, Tensor], row: Row) -> None:
        """Store one mixture, whole or not at all."""
        save_tensors(self._path(index), tensors, {"kind": "separation", "row": row})

    def read(self, index: int) -> tuple[dict[str, Tensor], Row]:
        """What `write` stored.

        Raises:
            LassError: if the file is missing, damaged, or holds something else.
        """
        tensors, metadata = load_tensors(self._path(index), "separation")
        if metadata.get("kind") != "separation" or not isinstance(metadata.get("row"), dict):
            raise LassError(f"{self._path(index)} holds no separation: delete it, and the mixture is separated again.")
        return tensors, metadata["row"]

    def write_table(self, rows: list[Row], summary: dict[str, Any]) -> None:
        """Store the table of all mixtures and its summary."""
        with atomic_write(self.root / "results.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        write_json(self.root / "summary.json", summary)

    @property
    def figure(self) -> Path:
        """Where the picture is."""
        return self.root / "separations.png"

    @property
    def entropy_figure(self) -> Path:
        """Where the picture of the entropies is."""
        return self.root / "entropy.png"

    def _path(self, index: int) -> Path:
        return self.root / "mixtures" / f"{index:06d}.safetensors"
