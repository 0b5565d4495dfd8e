"""Entropy of the candidates' code pairs at each position, as a measure of uncertainty."""

# M mixtures, N candidates, S sources, T code positions

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lass.separation.algorithm import Candidates


def entropy_by_position(candidates: Candidates, exchangeable: Bool[Tensor, " M"]) -> Float[Tensor, "M T"]:
    """Entropy of the weighted empirical distribution of code pairs at each position, in nats; at most log N.

    It is 0 where all candidates of positive weight have the same pair. It can underestimate the entropy of the
    posterior: TopK, TopP and BeamSearch truncate the posterior, and the candidates of SequentialMonteCarlo share
    ancestors, so that early positions appear more certain than they are.

    Args:
        candidates: Weighted candidates of Algorithm 1.
        exchangeable: Mixtures for which a pair and its reverse count as one outcome, because the sources have the same
            prior and class.

    Source: our own.
    """
    num_codes = int(candidates.codes.max()) + 1
    entropies = []
    for codes, weights, may_swap in zip(candidates.codes, candidates.weights, exchangeable.tolist(), strict=True):
        first, second = codes.sort(1).values.unbind(1) if may_swap else codes.unbind(1)  # (N, T)
        num_positions = codes.shape[-1]
        position = torch.arange(num_positions, device=codes.device)
        distinct, which = ((position * num_codes + first) * num_codes + second).unique(return_inverse=True)
        share = weights.new_zeros(len(distinct))
        share.index_add_(0, which.flatten(), weights.repeat_interleave(num_positions))
        entropy = weights.new_zeros(num_positions)
        entropies.append(entropy.index_add_(0, distinct // num_codes**2, torch.special.entr(share)))
    return torch.stack(entropies)
