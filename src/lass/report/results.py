"""Results folder of a separation run: written during the run, read to resume it and to report on it.

config.yaml             the resolved configuration
settings.json           settings that a resumed run must share
mixtures/NNNNNN.safetensors   one mixture: estimates, its row of the table, and, if the method gives them, codes and
                        entropy of each position
results.csv             one row per mixture
summary.json            mean, standard deviation and number of mixtures for every score
separations.png         mixture | estimates | sources | residual
entropy.png             entropy of the candidates at each position, if the method gives it
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from lass.artifacts import atomic_write, load_tensors, read_json, save_tensors, write_json
from lass.errors import LassError

Row = dict[str, int | float]

CONTENT = 3  # version of the content of mixture files; increased when they hold more, so that old runs do not resume


class ResultsFolder:
    """Storage of the results of one separation run.

    Args:
        root: Path of the folder, which is created by the first write.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def start(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Start a run, or resume an unfinished one with equal settings.

        Args:
            settings: Settings on which the results depend; must be serialisable as JSON.
            overwrite: Whether to delete results that are in the folder.

        Raises:
            LassError: if the folder holds results that were made with other settings, unless `overwrite` is true.
        """
        path = self.root / "settings.json"
        settings = json.loads(json.dumps({**settings, "content": CONTENT}))  # types as JSON gives them
        # Settings of a run that failed before its first mixture (for lack of memory, for example) can be replaced.
        may_lose = path.exists() and any(self.root.glob("mixtures/*.safetensors")) and not overwrite
        if may_lose and (there := read_json(path, "run's settings")) != settings:
            if there.get("content") != CONTENT:
                raise LassError(
                    f"{self.root} holds results of another version of lass: choose another folder with "
                    "--trainer.default_root_dir, or replace them with --model.overwrite=true."
                )
            changed = [name for name in {**there, **settings} if there.get(name) != settings.get(name)]
            raise LassError(
                f"{self.root} holds results made with other settings ({', '.join(changed)}): choose another folder "
                "with --trainer.default_root_dir, or replace them with --model.overwrite=true."
            )
        if overwrite:
            for file in self.root.glob("mixtures/*.safetensors"):
                file.unlink()
        write_json(path, settings)

    def has(self, index: int, scores: Iterable[str] = ()) -> bool:
        """Whether the results of a mixture are stored with all of `scores`; an unreadable file counts as missing."""
        try:
            _, row = self.read(index)
        except LassError:
            return False
        return all(score in row for score in scores)

    def write(self, index: int, tensors: dict[str, Tensor], row: Row) -> None:
        """Store the tensors and the table row of one mixture, atomically."""
        save_tensors(self._path(index), tensors, {"kind": "separation", "row": row})

    def read(self, index: int) -> tuple[dict[str, Tensor], Row]:
        """Load the tensors and the table row of one mixture.

        Raises:
            LassError: if the file is missing, damaged, or does not hold a separation.
        """
        tensors, metadata = load_tensors(self._path(index), "separation")
        if metadata.get("kind") != "separation" or not isinstance(metadata.get("row"), dict):
            raise LassError(f"{self._path(index)} holds no separation: delete it, and the mixture is separated again.")
        return tensors, metadata["row"]

    def write_table(self, rows: list[Row], summary: dict[str, Any]) -> None:
        """Write the table of all mixtures (results.csv) and its summary (summary.json)."""
        with atomic_write(self.root / "results.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        write_json(self.root / "summary.json", summary)

    @property
    def figure(self) -> Path:
        """Path of the figure of example separations."""
        return self.root / "separations.png"

    @property
    def entropy_figure(self) -> Path:
        """Path of the figure of the entropies."""
        return self.root / "entropy.png"

    def _path(self, index: int) -> Path:
        return self.root / "mixtures" / f"{index:06d}.safetensors"
