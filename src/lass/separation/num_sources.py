"""How many sources a mixture has, by the evidence of each number."""

# M mixtures

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lass.errors import LassError, check_number
from lass.likelihood import AdditiveLikelihood
from lass.samplers import SequentialMonteCarlo
from lass.separation.algorithm import Progress
from lass.separation.separator import Separator
from lass.separation.storage import MAX_SOURCES

NUM_CANDIDATES = 64  # of the search that estimates an evidence; a separation needs more


def num_sources_probabilities(
    separator: Separator,
    mixtures: Float[Tensor, "M ..."],
    at_most: int = 4,
    *,
    num_candidates: int = NUM_CANDIDATES,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    progress: Progress = iter,
) -> Float[Tensor, "M at_most"]:
    """Return the probability that a mixture has 1, 2, …, `at_most` sources.

    All numbers are equally probable in advance, and the mixture is the mean of its sources. The probability is then in
    proportion to the evidence, Σ p(z¹) … p(zˢ) p(mixture | z¹, …, zˢ)^λ over all codes, which sequential Monte Carlo
    estimates for each number. With λ other than 1 this is a score rather than a probability, and the estimates have
    errors of several nats, so that probabilities near 0 and 1 are less certain than they look. The likelihood must be
    comparable between numbers of sources: an `AdditiveLikelihood`.

    Args:
        separator: Separator whose sources all share one prior.
        mixtures: (M, channels, *space).
        at_most: Largest number of sources.
        num_candidates: Candidates of sequential Monte Carlo for each mixture.
        seed: See `Separator.separate_batch`.
        indices: See `Separator.separate_batch`.
        progress: See `separate_codes`; called for each number of sources.

    Raises:
        LassError: if sources have different priors or weights, the likelihood serves one number of sources only, or a
            mixture is no signal of the codec.

    Source: our own; the evidence of sequential Monte Carlo, Doucet and Johansen 2009.
    """
    check_number("at_most", at_most, at_least=1, at_most=MAX_SOURCES, whole=True)
    check_number("seed", seed, at_least=0, whole=True)
    if not isinstance(separator.likelihood, AdditiveLikelihood):
        raise LassError(
            "To determine the number of sources an additive likelihood is needed, which serves any number, but this is "
            f"a {type(separator.likelihood).__name__}: give the number, or make count with --model.additive=true."
        )
    codes, latents = separator.encode(separator.checked(mixtures))
    log_evidence = []
    for num_sources in range(1, at_most + 1):
        candidates = separator.with_num_sources(num_sources).candidates(
            codes.flatten(1),
            None if latents is None else latents.flatten(2),
            sampler=SequentialMonteCarlo(num_candidates),
            seed=seed,
            indices=indices,
            progress=progress,
        )
        assert candidates.log_evidence is not None  # sequential Monte Carlo gives one
        log_evidence.append(candidates.log_evidence)
    if not torch.stack(log_evidence).isfinite().any(0).all():
        raise LassError(f"No number of sources from 1 to {at_most} explains the mixture: raise num_candidates.")
    return torch.stack(log_evidence, 1).softmax(1)
