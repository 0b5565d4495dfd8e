"""Algorithm 1: sample pairs of source codes, position by position, given the mixture's codes. Read this file first."""

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

#: Sequences per batch of the priors that keep the device busy. A mixture has candidates × sources sequences.
SEQUENCES_AT_ONCE = {"cpu": 128, "cuda": 2**12}

#: Wrapper of the loop over positions, for example `tqdm`; it must yield every element in order.
Progress = Callable[[Sequence[list[int]]], Iterable[list[int]]]


@dataclass(frozen=True)
class Candidates:
    """Joint code sequences of the sources of each mixture, sorted by score, best first."""

    codes: Tensor  # (M, N, S, T) long
    scores: Tensor  # (M, N) unnormalised log posterior of the whole sequences: log(prior × likelihood^λ)
    weights: Tensor  # (M, N) normalised weights; they sum to 1, or to 0 if every candidate has score −inf
    log_evidence: Tensor | None = None  # (M,) log of an unbiased estimate of the evidence


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
    """Sample candidate code sequences of two sources given the codes of their mixture (Algorithm 1).

    At each position the log posterior of every pair of codes is the joint log prior of the pair plus λ times the log
    likelihood of the mixture's code given the pair (Lines 5 to 7). The sampler chooses the pairs that extend the
    candidates (Line 8).

    Mixtures are independent of each other. Each has its own random stream and, on a CPU with 64 candidates or more, its
    own batches of the priors, so that its result is bitwise independent of the other mixtures. If the priors' caches do
    not fit into memory, independent candidates (`Sampler.independent`) are evaluated in chunks with unchanged random
    numbers; the result is the same up to rounding.

    Log priors, likelihoods, scores and weights are float32 also under autocast, which applies to the priors' networks
    only.

    Args:
        mixture_codes: Codes of the mixtures, in the order in which the priors read them.
        priors: One prior per source. If both are the same object, it is evaluated in one batch.
        likelihood: Log likelihood of the mixture given pairs of source codes, for the pairs where it is not −inf.
        sampler: Rule that chooses pairs from the posterior.
        conditions: (M, S) classes of the sources, for class-conditional priors.
        likelihood_weight: Exponent λ of the likelihood; values above 1 give it more weight than the prior.
        mixture_latents: Unquantised latents of the mixtures, for likelihoods of latents.
        past: Codes of the sources before the first position, on which the priors are conditioned; for signals that are
            longer than a prior's sequences.
        seed: Seed of all randomness; each mixture's stream is seeded by (seed, its index).
        indices: Index of each mixture in the data set, so that its result does not depend on its batch; default 0…M-1.
        memory_budget: Upper bound in bytes of the temporaries of the posterior at one position, without the priors'
            caches.
        progress: Wrapper of the loop over positions; called once per batch of mixtures or chunk of candidates.

    Returns:
        The sampler's candidates, sorted by score. If the sampler gives no log weights, all candidates of finite score
        have equal weight.

    Raises:
        LassError: if the parts do not fit together, or the caches do not fit into memory.

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
    """Concatenate field by field; a field that is None in the first part is None in the result."""
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
    """Run Algorithm 1 for one batch: return codes (M, N, S, T), scores (M, N) and log weights (M, N) or None."""
    num_mixtures, device = len(mixture_codes), mixture_codes.device
    codes = mixture_codes.new_empty(num_mixtures, 1, 2, 0)  # Lines 2, 3: one empty candidate per mixture
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
    """Sort candidates by score and normalise their weights; return the fields of `Candidates`."""
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
