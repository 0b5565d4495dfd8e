"""Progress bar of the stages, which fits in one line of a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

FORMAT = "{desc}|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class RunProgressBar(TQDMProgressBar):
    """Lightning's progress bar with few and short words.

    The scores that a task logs with `prog_bar=True` are shown without the part of their name before the slash and with
    three significant digits: `val/psnr_db` is `psnr_db=21.3`. The logged names are not changed.
    """

    BAR_FORMAT = FORMAT

    def init_validation_tqdm(self) -> Tqdm:
        """Return the bar of a validation, in the line below that of the training."""
        return _named(super().init_validation_tqdm(), "Validation ")

    def init_sanity_tqdm(self) -> Tqdm:
        """Return the bar of the batches that are validated before a training."""
        return _named(super().init_sanity_tqdm(), "Checking the validation ")

    def init_predict_tqdm(self) -> Tqdm:
        """Return the bar of a separation."""
        return _named(super().init_predict_tqdm(), "Separating ")

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Reset the bar and number the epochs from 1."""
        super().on_train_epoch_start(trainer)
        total = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        self.train_progress_bar.set_description_str(f"Epoch {trainer.current_epoch + 1}{total} ")

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, int | str | float]:
        """Return the scores of the bar by their short names."""
        scores = {name: float(score) for name, score in trainer.progress_bar_metrics.items()}
        return {name.rpartition("/")[2]: f"{score:.3g}" for name, score in scores.items()}


def _named(bar: Tqdm, name: str) -> Tqdm:
    """Return a bar with a fixed name, in place of Lightning's with the number of the data loader."""
    bar.bar_format = FORMAT.replace("{desc}", name)
    return bar
