"""How evenly the codes of a codebook are used."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class CodeUsage(Metric):
    """Counts codes; `compute` gives the perplexity (exponential of the entropy) and the share of codes used at all.

    Example:
        >>> usage = CodeUsage(num_codes=4)
        >>> usage.update(torch.tensor([0, 0, 1, 1]))
        >>> {name: round(value.item(), 4) for name, value in usage.compute().items()}
        {'perplexity': 2.0, 'used': 0.5}
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_codes: int) -> None:
        super().__init__()
        self.add_state("counts", default=torch.zeros(num_codes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """Add codes of any shape."""
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts))

    def compute(self) -> dict[str, Tensor]:
        """`{"perplexity", "used"}`."""
        frequencies = self.counts / self.counts.sum()
        return {
            "perplexity": torch.special.entr(frequencies).sum().exp(),
            "used": (self.counts > 0).float().mean(),
        }
