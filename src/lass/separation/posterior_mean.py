"""Posterior mean and variance of the latents, estimated from the weighted candidates."""

# M mixtures, N candidates, S sources, T code positions

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.codecs import Codec
from lass.metrics.permutation import best_permutation
from lass.separation.algorithm import Candidates


@torch.no_grad()
def latent_moments(
    candidates: Candidates,
    chosen: Int[Tensor, " M"],
    codec: Codec,
    grid: tuple[int, ...],
    groups: Int[Tensor, "M S"],
) -> tuple[Float[Tensor, "M S dim *grid"], Float[Tensor, "M S dim *grid"]]:
    """Weighted mean and variance of the candidates' codebook vectors: estimates of the posterior's.

    A posterior sample has expected squared error 2 Var(z | y), the posterior mean Var(z | y). Averaging many candidates
    therefore reduces the expected squared error by up to a factor of two.

    Args:
        candidates: Weighted candidates of Algorithm 1.
        chosen: Index of the selected candidate of each mixture. It gets weight 1 where every candidate has weight 0.
        codec: Codec whose codebook vectors are averaged.
        grid: Shape of the codes of one signal.
        groups: Group of each source. The posterior is invariant under exchange of the sources of a group, so these are
            first permuted, in each candidate, to the order nearest (L2) to the selected candidate.

    Source: our own; the posterior mean minimises the expected squared error (Bayes).
    """
    means, variances = [], []
    per_mixture = zip(candidates.codes, candidates.weights, chosen.tolist(), groups, strict=True)
    for codes, weights, best, group in per_mixture:
        distinct, which = codes.flatten(0, 1).unique(dim=0, return_inverse=True)
        embedded = codec.embed(distinct.unflatten(1, grid))
        vectors = embedded.flatten(1)
        which = which.view(codes.shape[:2])  # (N, S)
        if len(group.unique()) < len(group):
            to_best = torch.cdist(vectors, vectors[which[best]]).square()  # (distinct, S)
            order = best_permutation(-to_best[which], group.expand(len(codes), -1))
            which = which.gather(1, order)
        if not weights.any():  # every candidate is impossible
            weights = torch.zeros_like(weights).index_fill_(0, chosen.new_tensor([best]), 1.0)
        share = vectors.new_zeros(codes.shape[1], len(distinct))  # weight of each sequence, by source
        share.scatter_add_(1, which.T, weights.to(vectors).expand(codes.shape[1], -1))
        mean = share @ vectors
        variance = (share @ vectors.square() - mean.square()).clamp(min=0)
        means.append(mean.unflatten(-1, embedded.shape[1:]))
        variances.append(variance.unflatten(-1, embedded.shape[1:]))
    return torch.stack(means), torch.stack(variances)
