"""Entropy of the candidates' tuples of codes at each position, as a measure of uncertainty."""

# M mixtures, N candidates, S sources, T code positions

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.separation.algorithm import Candidates


def entropy_by_position(candidates: Candidates, groups: Int[Tensor, "M S"]) -> Float[Tensor, "M T"]:
    """Entropy of the weighted empirical distribution of code tuples at each position, in nats; at most log N.

    It is 0 where all candidates of positive weight have the same tuple. It can underestimate the entropy of the
    posterior: TopK, TopP and BeamSearch truncate the posterior, and the candidates of SequentialMonteCarlo share
    ancestors, so that early positions appear more certain than they are.

    Args:
        candidates: Weighted candidates of Algorithm 1.
        groups: Group of each source; tuples that differ only by the order of the sources of a group are one outcome.

    Source: our own.
    """
    num_codes = int(candidates.codes.max()) + 1
    entropies = []
    for codes, weights, group in zip(candidates.codes, candidates.weights, groups, strict=True):
        keys = (group[:, None] * num_codes + codes).sort(1).values  # (N, S, T): the codes of a group in one order
        num_positions = codes.shape[-1]
        position = torch.arange(num_positions, device=codes.device)
        outcome = position.expand(len(codes), -1)
        for key in keys.unbind(1):
            _, outcome = (outcome * (keys.max() + 1) + key).unique(return_inverse=True)
        share = weights.new_zeros(int(outcome.max()) + 1)
        share.index_add_(0, outcome.flatten(), weights.repeat_interleave(num_positions))
        at = torch.zeros_like(share, dtype=torch.long).index_put_((outcome,), position.expand_as(outcome))
        entropies.append(weights.new_zeros(num_positions).index_add_(0, at, torch.special.entr(share)))
    return torch.stack(entropies)
