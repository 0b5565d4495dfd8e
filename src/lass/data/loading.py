"""The loader of the training batches, which continues a resumed epoch where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pytorch_lightning import Trainer
from torch.utils.data import DataLoader


class ResumableLoader(DataLoader):
    """Leaves out the batches that a resumed epoch has had before the stop; the rest is torch's.

    The sampler makes the order a function of (seed, epoch), and the trainer keeps how many batches of the epoch are
    done, so the loader has no state of its own. Lightning restores that number, and tells the sampler the epoch, only
    after it has made the iterator: a generator, which asks for both when the first batch is wanted.

    Args:
        trainer: that consumes the batches; None gives all of them.
        *args, **kwargs: of torch's loader.
    """

    def __init__(self, trainer: Trainer | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trainer = trainer

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch declares its private iterator
        """The batches of the epoch that are not done yet."""
        num_done, num_batches = 0, len(self)
        if self.trainer is not None:
            num_done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            # Lightning asks for one more than `limit_train_batches` when it resumes after the last batch of an epoch.
            num_batches = int(min(num_batches, self.trainer.num_training_batches))
        yield from islice(super().__iter__(), num_done, num_batches)

    def state_dict(self) -> dict[str, Any]:
        """Nothing; Lightning takes a loader with this method and the next for one that can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
