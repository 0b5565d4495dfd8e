"""Algorithm 1: walk through the mixture's codes and choose a pair of source codes at each. Read this file first."""

# M mixtures, C candidates before a step, N after it, S sources, T code positions, K num_codes

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import check_finite
from lass.devices.precision import full_precision
from lass.errors import LassError, check_number
from lass.likelihood import Likelihood, is_symmetric
from lass.priors import BoundedPrior, Prior
from lass.samplers import CandidateGenerators, IndependentSampler, MixtureGenerators, Sampler
from lass.separation.batched_priors import BatchedPriors
from lass.separation.memory import fit
from lass.separation.posterior import StepPosterior

#: Sequences that go through a prior together: enough to keep the device busy. A mixture has candidates × sources.
SEQUENCES_AT_ONCE = {"cpu": 128, "cuda": 2**12}

#: Goes through the positions, and may show how far it is: `tqdm`, for instance.
Progress = Callable[[Sequence[list[int]]], Iterable[list[int]]]


@dataclass(frozen=True)
class Candidates:
    """Joint code sequences for each mixture, best first."""

    codes: Tensor  # (M, N, S, T) long
    scores: Tensor  # (M, N) log posterior of the whole sequences, unnormalised
    weights: Tensor  # (M, N) sums to 1 per mixture (to 0 where every candidate is impossible)
    log_evidence: Tensor | None = None  # (M,) from samplers that estimate it; its exponential is unbiased


@torch.no_grad()
def separate_codes(
    mixture_codes: Int[Tensor, "M T"],
    priors: Sequence[Prior],
    likelihood: Likelihood,
    sampler: Sampler,
    *,
    conditions: Int[Tensor, ...] | None = None,
    likelihood_weight: float = 1.0,
    mixture_latents: Float[Tensor, "M dim T"] | None = None,
    past: Int[Tensor, "M S P"] | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    memory_budget: int = 2**30,
    progress: Progress = iter,
) -> Candidates:
    """Separate the codes of mixtures into the codes of two sources.

    Mixtures are independent of each other: each has its own randomness and, on a CPU with 64 candidates or more, its
    own passes through the priors, so that its result is the same to the last bit whatever else is in the batch. Where
    the priors' caches do not fit into memory, candidates that do not look at each other go through the priors in
    groups, with the same random numbers, which gives the same result up to rounding.

    Log priors, likelihoods, scores and weights are float32 also under autocast; only the priors' networks follow it.

    Args:
        mixture_codes: codes of the mixtures, in the order in which the priors read them.
        priors: one per source; naming one object twice means a shared prior, which is then evaluated in one pass.
        likelihood: which pairs of source codes give a mixture code, and how likely.
        sampler: how pairs are chosen from the posterior.
        conditions: (M, S) classes of the sources, for class-conditional priors.
        likelihood_weight: λ; above 1 trusts the likelihood more.
        mixture_latents: unquantised latents of the mixtures, for likelihoods that look at them.
        past: codes of the sources before the first position, which the priors read but which are decided already; for
            signals that are longer than a prior's sequences.
        seed: of all randomness, together with `indices`.
        indices: one number per mixture, so that its result does not depend on its batch; default 0…M-1.
        memory_budget: bytes that the posterior of one position may take for temporaries; the priors' caches are apart.
        progress: goes through the positions, once for each group of what goes through the priors together.

    Returns:
        The sampler's candidates, sorted by score. Each has the weight 1/N, impossible ones (score −inf) excepted,
        unless the sampler weighs them.

    Raises:
        LassError: if the parts do not fit together, or the caches not into memory.

    Source: LASS (arXiv:2301.08562), Algorithm 1.
    """
    num_mixtures, num_positions = mixture_codes.shape
    indices = range(num_mixtures) if indices is None else indices
    if past is None:
        past = mixture_codes.new_empty(num_mixtures, len(priors), 0)
    _check(mixture_codes, past, priors, likelihood, conditions, indices)
    check_number("likelihood_weight", likelihood_weight, at_least=0)
    check_number("memory_budget", memory_budget, at_least=1, whole=True)
    if mixture_latents is not None:
        check_finite({"latents": mixture_latents}, "The mixture")
    num_candidates, length = sampler.num_candidates, past.shape[-1] + num_positions
    independent = isinstance(sampler, IndependentSampler) and sampler.independent
    sequences_at_once = SEQUENCES_AT_ONCE.get(mixture_codes.device.type, SEQUENCES_AT_ONCE["cuda"])
    at_once = min(num_mixtures, max(1, sequences_at_once // (num_candidates * len(priors))))
    device = mixture_codes.device
    at_once, together = fit(priors, at_once, num_candidates, length, device, independent, memory_budget)
    separated = []
    for start in range(0, num_mixtures, at_once):
        group, walked = slice(start, start + at_once), []
        for first in range(0, num_candidates, together):
            own = slice(first, min(first + together, num_candidates))
            walked.append(
                _run(
                    mixture_codes[group],
                    BatchedPriors(priors, None if conditions is None else conditions[group]),
                    likelihood,
                    sampler if together == num_candidates else _with_candidates(sampler, own.stop - own.start),
                    likelihood_weight,
                    None if mixture_latents is None else mixture_latents[group],
                    past[group],
                    CandidateGenerators(seed, indices[group], device, own, num_candidates)
                    if together < num_candidates
                    else MixtureGenerators(seed, indices[group], device),
                    memory_budget,
                    progress,
                )
            )
        codes, scores, log_weights = _joined(walked, 1)
        separated.append(_sorted(codes, scores, log_weights))
    return Candidates(*_joined(separated, 0))


def _with_candidates(sampler: Sampler, num_candidates: int) -> Sampler:
    """The same (independent) sampler for fewer candidates."""
    return replace(cast(Any, sampler), num_candidates=num_candidates)


def _joined(parts: Sequence[tuple[Any, ...]], dim: int) -> tuple[Any, ...]:
    """Field by field; what is None in one is None in all."""
    return tuple(None if fields[0] is None else torch.cat(fields, dim) for fields in zip(*parts, strict=True))


def _run(
    mixture_codes: Tensor,
    prior: BatchedPriors,
    likelihood: Likelihood,
    sampler: Sampler,
    likelihood_weight: float,
    mixture_latents: Tensor | None,
    past: Tensor,
    generator: MixtureGenerators,
    memory_budget: int,
    progress: Progress,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Algorithm 1 for what goes through the priors together: codes (M, N, S, T), scores (M, N), log weights (M, N)."""
    num_mixtures, device = len(mixture_codes), mixture_codes.device
    codes = mixture_codes.new_empty(num_mixtures, 1, 2, 0)  # one empty candidate per mixture: Lines 2, 3
    scores = torch.zeros(num_mixtures, 1, dtype=torch.float32, device=device)
    log_weights: Tensor | None = None
    parents = torch.zeros_like(scores, dtype=torch.long)
    start = (num_mixtures, sampler.num_candidates, device, past)
    symmetric = is_symmetric(likelihood)

    for position, step_codes in enumerate(progress(mixture_codes.T.tolist())):
        log_priors = prior.step(parents, codes[..., -1]) if position else prior.start(*start)  # Line 5
        latents = None if mixture_latents is None else mixture_latents[..., position].float()
        with full_precision(device):
            pairs = likelihood.at(step_codes, latents)  # Line 6
            posterior = StepPosterior(
                log_priors, pairs, likelihood_weight, log_weights, memory_budget, symmetric
            )  # Line 7
            parents, first, second, scores, log_weights = sampler.step(posterior, scores, generator)  # Line 8
        continued = codes.gather(1, parents[..., None, None].expand(-1, -1, *codes.shape[2:]))
        codes = torch.cat([continued, torch.stack([first, second], -1)[..., None]], -1)  # Lines 9, 10
    return codes, scores, log_weights


def _sorted(codes: Tensor, scores: Tensor, log_weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Best first, with weights that sum to 1: the fields of Candidates."""
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    codes = codes.gather(1, order[..., None, None].expand_as(codes))
    if log_weights is None:
        possible = scores.isfinite().to(scores)
        return codes, scores, possible / possible.sum(1, keepdim=True).clamp(min=1), None
    weights = log_weights.gather(1, order).softmax(1).nan_to_num(0.0)
    return codes, scores, weights, log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def _check(
    mixture_codes: Tensor,
    past: Tensor,
    priors: Sequence[Prior],
    likelihood: Likelihood,
    conditions: Tensor | None,
    indices: Sequence[int] | None,
) -> None:
    num_mixtures, num_positions = mixture_codes.shape
    if len(priors) != 2:
        raise LassError(f"Two sources need two priors (or one prior named twice), got {len(priors)}.")
    if num_mixtures == 0 or num_positions == 0:
        raise LassError(f"There is nothing to separate: got {num_mixtures} mixtures of {num_positions} codes.")
    for prior in priors:
        length = past.shape[-1] + num_positions
        if isinstance(prior, BoundedPrior) and length > prior.num_positions:
            raise LassError(f"This prior is for sequences of {prior.num_positions} codes, but {length} were asked for.")
        if prior.num_codes != likelihood.num_codes:
            raise LassError(
                f"The prior knows {prior.num_codes} codes and the likelihood {likelihood.num_codes}: "
                "they were made for different codecs."
            )
    if not 0 <= int(mixture_codes.min()) <= int(mixture_codes.max()) < likelihood.num_codes:
        raise LassError(
            f"Mixture codes must be in 0…{likelihood.num_codes - 1}, got {int(mixture_codes.min())}…"
            f"{int(mixture_codes.max())}: they come from another codec."
        )
    if conditions is not None and tuple(conditions.shape) != (num_mixtures, len(priors)):
        raise LassError(f"Expected conditions of shape ({num_mixtures}, {len(priors)}), got {tuple(conditions.shape)}.")
    if indices is not None and len(indices) != num_mixtures:
        raise LassError(f"Expected one index for each of {num_mixtures} mixtures, got {len(indices)}.")
