"""Random priors, likelihoods and triples of any size, with realistic sharpness and density."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lass import SparseLikelihood
from lass.priors import TransformerPrior


def random_prior(num_codes: int, num_positions: int, num_layers: int, dim: int, num_heads: int) -> TransformerPrior:
    """Return an untrained prior whose predictions are about as sharp as those of a trained one (two to four nats)."""
    torch.manual_seed(0)
    shape = {"dim": dim, "num_layers": num_layers, "num_heads": num_heads}
    prior = TransformerPrior(num_codes, num_positions, **shape).eval()
    with torch.no_grad():
        prior.to_logits.weight.normal_(std=2.0 / dim**0.5)
    return prior


def random_likelihood(num_codes: int, density: float) -> SparseLikelihood:
    """Return a likelihood with an equal number of random pairs, of random likelihood, for every mixture code."""
    generator = torch.Generator().manual_seed(0)
    num_pairs = round(density * num_codes**2)
    first, second = torch.empty(2, num_codes, num_pairs, dtype=torch.long)
    for mixture in range(num_codes):
        if num_codes <= 1024:
            pairs = torch.randperm(num_codes**2, generator=generator)[:num_pairs]
        else:  # draw with replacement, then make pairs distinct by adding their rank
            pairs = torch.randint(num_codes**2 - num_pairs, (num_pairs,), generator=generator)
            pairs = pairs.sort().values + torch.arange(num_pairs)
        pairs = pairs.sort().values
        first[mixture], second[mixture] = pairs // num_codes, pairs % num_codes
    mixture = torch.arange(num_codes).repeat_interleave(num_pairs)
    log_likelihood = torch.rand(num_codes * num_pairs, generator=generator).log()
    return SparseLikelihood(num_codes, first.flatten(), second.flatten(), mixture, log_likelihood)


def dense_likelihood(likelihood: SparseLikelihood) -> Tensor:
    """Return the tensor P, (K, K, K)."""
    dense = torch.zeros(likelihood.num_codes, likelihood.num_codes, likelihood.num_codes)
    for mixture in range(likelihood.num_codes):
        first, second, log_likelihood = likelihood.pairs(mixture)
        dense[first, second, mixture] = log_likelihood.exp()
    return dense


def random_triples(num_codes: int, batch: int, repeating: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield endless batches of first, second and mixture codes.

    Args:
        num_codes: K.
        batch: Number of triples in a batch.
        repeating: If True, codes have Zipf-distributed frequencies, and the mixture code is a function of the pair plus
            a little noise, as in real data. If False, all codes are uniform, so that triples hardly repeat: the worst
            case.
    """
    generator = torch.Generator().manual_seed(0)
    frequencies = 1 / torch.arange(1, num_codes + 1, dtype=torch.float64)
    running_sum = (frequencies / frequencies.sum()).cumsum(0)
    name = torch.randperm(num_codes, generator=generator)  # frequent codes get random indices
    while True:
        if not repeating:
            yield tuple(torch.randint(num_codes, (3, batch), generator=generator))
            continue
        uniforms = torch.rand(2, batch, generator=generator, dtype=torch.float64)
        first, second = name[torch.searchsorted(running_sum, uniforms).clamp_(max=num_codes - 1)]
        noise = torch.empty(batch).exponential_(1 / 3, generator=generator).long()
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        yield first, second, (low * 2654435761 + high * 40503 + noise) % num_codes
