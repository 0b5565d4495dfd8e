"""Mean and standard deviation of a score over mixtures, exact on any number of devices."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanAndDeviation(Metric):
    """Mean, standard deviation (n − 1) and count of scores, one per mixture.

    All scores are stored, because a sum of squares would lose precision. Mean and standard deviation are computed in
    float64 on the CPU, because not every device supports float64.

    Args:
        skip_undefined: Skip NaN, the score of mixtures for which it is undefined.
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, skip_undefined: bool = False) -> None:
        super().__init__()
        self.skip_undefined = skip_undefined
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, values: Tensor) -> None:
        """Add the scores of a batch of mixtures."""
        values = values.detach().flatten()
        self.values.append(values[~values.isnan()] if self.skip_undefined else values)

    def compute(self) -> dict[str, Tensor]:
        """`{"mean", "std", "num"}`; the standard deviation of a single score is 0."""
        values = (torch.cat(self.values) if isinstance(self.values, list) else self.values).cpu().double()
        if not len(values):
            return {"mean": torch.tensor(torch.nan), "std": torch.tensor(torch.nan), "num": torch.tensor(0)}
        std = values.std() if len(values) > 1 else torch.zeros_like(values.mean())
        return {"mean": values.mean(), "std": std, "num": torch.tensor(len(values))}
