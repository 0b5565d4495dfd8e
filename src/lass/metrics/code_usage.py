"""Codebook usage: perplexity and share of used codes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class CodeUsage(Metric):
    """Usage statistics of a codebook, accumulated over batches of codes.

    `compute` returns the perplexity (exponential of the entropy of code frequencies), the share of codes with at least
    one use, and the counts, (num_codes,).

    Example:
        >>> usage = CodeUsage(num_codes=4)
        >>> usage.update(torch.tensor([0, 0, 1, 1]))
        >>> usage.compute()
        {'perplexity': tensor(2.), 'used': tensor(0.5000), 'counts': tensor([2, 2, 0, 0])}
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_codes: int) -> None:
        super().__init__()
        self.add_state("counts", default=torch.zeros(num_codes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """Count codes of any shape."""
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts))

    def compute(self) -> dict[str, Tensor]:
        """Perplexity, share of used codes and counts, as `{"perplexity", "used", "counts"}`."""
        frequencies = self.counts / self.counts.sum()
        return {
            "perplexity": torch.special.entr(frequencies).sum().exp(),
            "used": (self.counts > 0).float().mean(),
            "counts": self.counts,
        }
