"""Data loader of training batches that resumes in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pytorch_lightning import Trainer
from torch.utils.data import DataLoader


class ResumableLoader(DataLoader):
    """`DataLoader` that skips the batches of a resumed epoch that were processed before the interruption.

    The loader has no state of its own: the sampler's order is a function of (seed, epoch), and the trainer stores the
    number of processed batches. Lightning restores that number and sets the sampler's epoch only after it has called
    `__iter__`, which is therefore a generator and reads both when the first batch is requested.

    Args:
        trainer: Trainer that consumes the batches; with None, no batch is skipped.
        *args, **kwargs: Arguments of `torch.utils.data.DataLoader`.
    """

    def __init__(self, trainer: Trainer | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trainer = trainer

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch declares its private iterator
        """Batches of the epoch that have not been processed."""
        num_done, num_batches = 0, len(self)
        if self.trainer is not None:
            num_done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            # Resuming after the last batch of an epoch, Lightning requests one batch beyond `limit_train_batches`.
            num_batches = int(min(num_batches, self.trainer.num_training_batches))
        yield from islice(super().__iter__(), num_done, num_batches)

    def state_dict(self) -> dict[str, Any]:
        """Empty. Lightning treats loaders that have this method and `load_state_dict` as resumable."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
