"""Posterior mean of the latents, estimated from the weighted candidates."""

# M mixtures, N candidates, S sources, T code positions

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lass.codecs import Codec
from lass.separation.algorithm import Candidates


@torch.no_grad()
def mean_latents(
    candidates: Candidates,
    chosen: Int[Tensor, " M"],
    codec: Codec,
    grid: tuple[int, ...],
    exchangeable: Bool[Tensor, " M"],
) -> Float[Tensor, "M S dim *grid"]:
    """Weighted mean of the candidates' codebook vectors, an estimate of the posterior mean of the latents.

    A posterior sample has expected squared error 2 Var(z | y), the posterior mean Var(z | y). Averaging many candidates
    therefore reduces the expected squared error by up to a factor of two.

    Args:
        candidates: Weighted candidates of Algorithm 1.
        chosen: Index of the selected candidate of each mixture. It gets weight 1 where every candidate has weight 0.
        codec: Codec whose codebook vectors are averaged.
        grid: Shape of the codes of one signal.
        exchangeable: Mixtures whose sources have the same prior and class. Their posterior is invariant under exchange
            of the sources, so each candidate's sources are first permuted to the order nearest (L2) to the selected
            candidate.

    Source: our own; the posterior mean minimises the expected squared error (Bayes).
    """
    means = []
    per_mixture = zip(candidates.codes, candidates.weights, chosen.tolist(), exchangeable.tolist(), strict=True)
    for codes, weights, best, may_swap in per_mixture:
        distinct, which = codes.flatten(0, 1).unique(dim=0, return_inverse=True)
        embedded = codec.embed(distinct.unflatten(1, grid))
        vectors = embedded.flatten(1)
        which = which.view(codes.shape[:2])  # (N, S)
        if may_swap:
            to_best = torch.cdist(vectors, vectors[which[best]]).square()  # (distinct, S)
            kept = to_best[which[:, 0], 0] + to_best[which[:, 1], 1]
            swapped = to_best[which[:, 0], 1] + to_best[which[:, 1], 0]
            which = torch.where((swapped < kept)[:, None], which.flip(1), which)
        if not weights.any():  # every candidate is impossible
            weights = torch.zeros_like(weights).index_fill_(0, chosen.new_tensor([best]), 1.0)
        share = vectors.new_zeros(codes.shape[1], len(distinct))  # weight of each sequence, by source
        share.scatter_add_(1, which.T, weights.to(vectors).expand(codes.shape[1], -1))
        means.append((share @ vectors).unflatten(-1, embedded.shape[1:]))
    return torch.stack(means)
