"""Messages of libraries that are not shown because the user can do nothing about them, each with the reason."""

from __future__ import annotations

import logging
import re
import warnings
from functools import cache

#: Loggers of Lightning; a filter of a logger does not apply to the loggers below it.
LOGGERS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.rank_zero",
    "lightning_fabric.utilities.seed",
)

#: Start of a log message -> why it is not shown. A device that is available is announced ("GPU available: True").
MESSAGES = {
    r"💡": "advertises another product",
    r"Detected KeyboardInterrupt": "`main` says how to resume",
    r"Seed set to": "the seed is in the config of the run",
    r"(GPU|TPU|HPU) available: False": "nothing was asked of the device",
    r"Loading `train_dataloader` to estimate": "the data is loaded at that time in every training",
    r"`Trainer\.fit` stopped: `max_(epochs|steps)=": "the training ended as configured; the task says what it made",
    r"Restored all states": "Lightning has named the checkpoint two lines before",
}

#: Log message about the ModelCheckpoint that Lightning adds by itself; shown if the user configured callbacks.
REPLACED_CHECKPOINT = r"The following callbacks .* will override .*: ModelCheckpoint$"

#: Start of a warning -> why it is not shown.
WARNINGS = {
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "Lightning's use of torch, harmless until one of both changes",
    r"`LightningModule.configure_optimizers` returned `None`": "counting is a training without optimizer",
    r"Found \d+ module\(s\) in eval mode at the start of training": "codecs are trained in stage 1 and frozen later",
    r"The '\w+' does not have many workers": "0 is the fastest for signals in memory; --help describes num_workers",
}


def silence() -> None:
    """Hide the messages in `MESSAGES` and `WARNINGS`, and no others."""
    hide(*MESSAGES)
    for start in WARNINGS:
        warnings.filterwarnings("ignore", start)


@cache
def hide(*patterns: str) -> None:
    """Hide Lightning's log messages that begin with one of the regular expressions."""
    compiled = re.compile(rf"\s*({'|'.join(patterns)})")
    for name in LOGGERS:
        logging.getLogger(name).addFilter(lambda record: compiled.match(record.getMessage()) is None)
