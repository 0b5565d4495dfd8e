"""Permutation-invariant assignment of estimates to sources."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def best_permutation(
    scores: Float[Tensor, "batch estimates sources"], groups: Int[Tensor, "batch sources"] | None = None
) -> Int[Tensor, "batch sources"]:
    """Find the assignment of estimates to sources with the highest mean score.

    Args:
        scores: Score of estimate e for source s, e.g. PSNR, at `scores[b, e, s]`; higher is better. NaN counts as 0, so
            items whose scores are all NaN keep their order.
        groups: Number of the group of each source. Estimate e is assigned to source s only if both have the same
            number. None for one group of all sources.

    Returns:
        Index of the estimate assigned to each source, (batch, sources).

    Example:
        >>> best_permutation(torch.tensor([[[1.0, 9.0], [8.0, 2.0]]]))
        tensor([[1, 0]])

    Source: Jayaram and Thickstun 2020 (arXiv:2002.07942), whose protocol LASS follows: mean PSNR in the best order;
    found by the Hungarian method (Kuhn 1955), whose cost is cubic in the number of sources.
    """
    benefits = scores.nan_to_num(0.0, 1e6, -1e6).cpu().double()  # on the CPU, as not every device has float64
    if groups is not None:
        forbidden = (groups[:, :, None] != groups[:, None]).cpu()
        lowest = -2 * (1 + benefits.abs().sum((1, 2), keepdim=True))  # below the total of any allowed assignment
        benefits = torch.where(forbidden, lowest, benefits)
    # Rows of the transposed matrix are sources, so the columns assigned to them are estimates.
    orders = [linear_sum_assignment(each.T.numpy(), maximize=True)[1] for each in benefits]
    return torch.tensor(np.array(orders, dtype=np.int64), device=scores.device).view(len(scores), scores.shape[-1])
