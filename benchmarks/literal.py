"""Literal implementation of Algorithm 1, as the reference: dense K×K matrices, no cache, one mixture at a time."""

# N candidates, K num_codes, T code positions

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LogPrior = Callable[[Tensor], Tensor]  # (N, s) past codes -> (N, K) log p(next code | past)
ChoosePairs = Callable[[Tensor], Tensor]  # (N, K * K) log posterior -> (N,) first * K + second


def draw_pairs(log_posterior: Tensor) -> Tensor:
    """Ancestral sampling."""
    return torch.multinomial(log_posterior.softmax(-1), 1)[:, 0]


def draw_pairs_among_the_best(log_posterior: Tensor, k: int = 32) -> Tensor:
    """Top-k sampling."""
    best = log_posterior.topk(k)
    return best.indices.gather(1, torch.multinomial(best.values.softmax(-1), 1))[:, 0]


@torch.no_grad()
def separate_literally(
    mixture_codes: Tensor,
    log_priors: Sequence[LogPrior],
    likelihood: Tensor,
    num_candidates: int,
    choose: ChoosePairs = draw_pairs,
    likelihood_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the candidates of one mixture, (N, 2, T), and their unnormalised log posterior, (N,).

    Args:
        mixture_codes: (T,).
        log_priors: Log priors of the two sources.
        likelihood: Tensor P, (K, K, K): p(mixture code | first, second).
        num_candidates: N.
        choose: Sampler of Line 8.
        likelihood_weight: λ.

    Source: LASS (arXiv:2301.08562), Algorithm 1; comments give its line numbers.
    """
    num_codes = likelihood.shape[0]
    z1 = torch.zeros(num_candidates, 0, dtype=torch.long)  # 2
    z2 = torch.zeros(num_candidates, 0, dtype=torch.long)  # 3
    scores = torch.zeros(num_candidates)
    for mixture_code in mixture_codes.tolist():  # 4
        log_prior = log_priors[0](z1)[:, :, None] + log_priors[1](z2)[:, None, :]  # 5
        log_likelihood = likelihood[:, :, mixture_code].log()  # 6
        log_posterior = (log_prior + likelihood_weight * log_likelihood).flatten(1)  # 7
        pair = choose(log_posterior)  # 8
        z1 = torch.cat([z1, pair[:, None] // num_codes], 1)  # 9
        z2 = torch.cat([z2, pair[:, None] % num_codes], 1)  # 10
        scores = scores + log_posterior.gather(1, pair[:, None])[:, 0]
    return torch.stack([z1, z2], 1), scores


def without_cache(prior: torch.nn.Module) -> LogPrior:
    """Return a transformer's log prior of the next code, computed by a full pass over the past."""

    def log_prior(past: Tensor) -> Tensor:
        anything = past.new_zeros(len(past), 1)
        return prior(torch.cat([past, anything], 1))[:, -1].log_softmax(-1)

    return log_prior
