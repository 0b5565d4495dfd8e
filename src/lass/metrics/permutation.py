"""Permutation-invariant assignment of estimates to sources."""

from __future__ import annotations

from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def best_permutation(scores: Float[Tensor, "batch estimates sources"]) -> Int[Tensor, "batch sources"]:
    """Find the assignment of estimates to sources with the highest mean score.

    Args:
        scores: Score of estimate e for source s, e.g. PSNR, at `scores[b, e, s]`; higher is better. NaN counts as 0, so
            items whose scores are all NaN keep their order.

    Returns:
        Index of the estimate assigned to each source, (batch, sources).

    Example:
        >>> best_permutation(torch.tensor([[[1.0, 9.0], [8.0, 2.0]]]))
        tensor([[1, 0]])

    Source: Jayaram and Thickstun 2020 (arXiv:2002.07942), whose protocol LASS follows: mean PSNR in the better order.
    """
    num_sources = scores.shape[-1]
    orders = torch.tensor(list(permutations(range(num_sources))), device=scores.device)  # (orders, sources)
    scores = scores.nan_to_num(0.0)
    totals = scores[:, orders, torch.arange(num_sources, device=scores.device)].sum(-1)  # (batch, orders)
    return orders[totals.argmax(1)]
