"""Progress bar of the stages, which fits in one line of a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm, convert_inf

FORMAT = "{desc}|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class RunProgressBar(TQDMProgressBar):
    """Lightning's progress bar with few and short words.

    The scores that a task logs with `prog_bar=True` are shown without the part of their name before the slash and with
    three significant digits: `val/psnr_db` is `psnr_db=21.3`. The logged names are not changed.
    """

    BAR_FORMAT = FORMAT

    train_description, validation_description = "Training ", "Validation "
    sanity_check_description, predict_description = "Checking the validation ", "Separating "

    def init_validation_tqdm(self) -> Tqdm:
        """Return the bar of a validation, in the line below that of the training."""
        return _without_loader(super().init_validation_tqdm())

    def init_sanity_tqdm(self) -> Tqdm:
        """Return the bar of the batches that are validated before a training."""
        return _without_loader(super().init_sanity_tqdm())

    def init_predict_tqdm(self) -> Tqdm:
        """Return the bar of a separation."""
        return _without_loader(super().init_predict_tqdm())

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Reset the bar and number the epochs from 1."""
        bar, num_epochs = self.train_progress_bar, trainer.max_epochs or -1
        bar.reset()
        bar.total, bar.initial = convert_inf(self.total_train_batches), 0
        bar.set_description_str(f"Epoch {trainer.current_epoch + 1}{f'/{num_epochs}' if num_epochs > 0 else ''} ")

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the scores of the bar by their short names."""
        scores = {name: float(score) for name, score in trainer.progress_bar_metrics.items()}
        return {name.rpartition("/")[2]: f"{score:.3g}" for name, score in scores.items()}


def _without_loader(bar: Tqdm) -> Tqdm:
    """Return a bar that keeps its description, to which Lightning would add the number of the data loader."""
    bar.bar_format = FORMAT.replace("{desc}", bar.desc)
    return bar
