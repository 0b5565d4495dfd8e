"""Learn the dictionaries of non-negative matrix factorisation (NMF) on single training sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lass.data.sources import Sources
from lass.errors import LassError, check_flag, check_number
from lass.methods.dictionaries import NMFDictionaries
from lass.tasks.trainer import is_dry_run

FOLDER = "dictionaries"


class DictionaryFitting(LightningModule):
    """Collects the training signals of one epoch, and saves NMFDictionaries learned on them.

    The dictionaries are saved to `<default_root_dir>/dictionaries`. No optimizer is used. One process only.

    Args:
        num_components: Number of components of each dictionary.
        by_class: Whether each class has a dictionary of its own (weakly supervised separation); false for one for all.
        max_signals: Largest number of training signals of a dictionary.
        max_iterations: Largest number of NMF iterations per dictionary.

    Raises:
        LassError: if a setting is out of range; in `fit`, if there are several processes, or too few or negative
            signals.

    Source: Lee and Seung 1999 (Nature 401); see `NMFDictionaries`.
    """

    def __init__(
        self, num_components: int = 16, by_class: bool = False, max_signals: int = 5000, max_iterations: int = 200
    ) -> None:
        super().__init__()
        check_number("num_components", num_components, at_least=1, whole=True)
        check_flag("by_class", by_class)
        check_number("max_signals", max_signals, at_least=num_components, whole=True)
        check_number("max_iterations", max_iterations, at_least=1, whole=True)
        self.automatic_optimization = False
        self.num_components, self.by_class = num_components, by_class
        self.max_signals, self.max_iterations = max_signals, max_iterations
        self._signals: dict[int, list[Tensor]] = {}  # by class, or all under 0
        # Distributed strategies require at least one parameter with a gradient.
        self.nothing_to_train = torch.nn.Parameter(torch.zeros(()))

    def setup(self, stage: str) -> None:
        """Check that this is the only process, as every process would learn from its part of the data."""
        if self.trainer.world_size > 1:
            raise LassError(f"NMF is fitted by one process, not {self.trainer.world_size}: set --trainer.devices=1.")

    def configure_optimizers(self) -> None:
        """Return no optimizer, because NMF has its own updates."""

    def on_train_epoch_start(self) -> None:
        """Forget the signals of an earlier epoch."""
        self._signals = {}

    def training_step(self, batch: Any) -> None:
        """Collect the signals of a batch, up to `max_signals` per dictionary."""
        if not isinstance(batch, Sources):
            raise LassError("NMF is fitted to single sources, but the data gives tuples: set --data.tuples=false.")
        labels = batch.labels.cpu() if self.by_class else torch.zeros(len(batch.signals), dtype=torch.long)
        signals = batch.signals.float().cpu()
        for label in labels.unique().tolist():
            group = self._signals.setdefault(label, [])
            missing = self.max_signals - sum(map(len, group))
            if missing > 0:
                group.append(signals[labels == label][:missing])

    def on_train_epoch_end(self) -> None:
        """Learn the dictionaries, save them, and log the number of signals."""
        classes = sorted(self._signals)
        groups = [torch.cat(self._signals[label]) for label in classes]
        signals = torch.cat(groups)
        labels = torch.cat([torch.full((len(group),), label) for label, group in zip(classes, groups, strict=True)])
        dictionaries = NMFDictionaries.fit(
            signals, labels if self.by_class else None, self.num_components, max_iterations=self.max_iterations
        )
        if not is_dry_run(self.trainer):
            dictionaries.save_pretrained(Path(self.trainer.default_root_dir) / FOLDER)
        self.log("nmf/num_signals", float(len(signals)))
