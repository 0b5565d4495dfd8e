"""Algorithm 1: sample tuples of source codes, position by position, given the mixture's codes. Read this file first."""

# M mixtures, C candidates before a step, N after it, S sources, T code positions, K num_codes

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import check_finite
from lass.devices.precision import full_precision
from lass.errors import LassError, check_number
from lass.likelihood import (
    MAX_PAIRS,
    AdditiveLikelihood,
    ChainLikelihood,
    Likelihood,
    PairLikelihood,
    is_symmetric,
)
from lass.priors import BoundedPrior, Prior
from lass.samplers import CandidateGenerators, IndependentSampler, MixtureGenerators, Posterior, Sampler
from lass.separation.batched_priors import BatchedPriors, LogPrior
from lass.separation.chain_posterior import ChainPosterior
from lass.separation.compatibility import check_num_sources
from lass.separation.memory import plan_chunks
from lass.separation.posterior import StepPosterior
from lass.separation.tuple_posterior import TuplePosterior

#: Sequences per batch of the priors that keep the device busy. A mixture has candidates × sources sequences.
SEQUENCES_AT_ONCE = {"cpu": 128, "cuda": 2**12}

#: Wrapper of the loop over positions, for example `tqdm`; it must yield every element in order.
Progress = Callable[[Sequence[list[int]]], Iterable[list[int]]]


@dataclass(frozen=True)
class Candidates:
    """Joint code sequences of the sources of each mixture, sorted by score, best first."""

    codes: Tensor  #: (M, N, S, T) long
    scores: Tensor  #: (M, N) unnormalised log posterior of the whole sequences: log(prior × likelihood^λ)
    weights: Tensor  #: (M, N) normalised weights; they sum to 1, or to 0 if every candidate has score −inf
    log_evidence: Tensor | None = None  #: (M,) log of an unbiased estimate of the evidence


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
    mixing_weights: Sequence[float] | None = None,
    past: Int[Tensor, "M S P"] | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    memory_budget: int = 2**30,
    progress: Progress = iter,
) -> Candidates:
    """Sample candidate code sequences of S sources given the codes of their mixture (Algorithm 1).

    At each position the log posterior of every tuple of codes, one per source, is the joint log prior of the tuple plus
    λ times the log likelihood of the mixture given the tuple (Lines 5 to 7). The sampler chooses the tuples that extend
    the candidates (Line 8).

    Mixtures are independent of each other. Each has its own random stream and, on a CPU with 64 candidates or more, its
    own batches of the priors, so that its result is bitwise independent of the other mixtures. If the priors' caches do
    not fit into memory, independent candidates (`Sampler.independent`) are evaluated in chunks with unchanged random
    numbers; the result is the same up to rounding.

    Log priors, likelihoods, scores and weights are float32 also under autocast, which applies to the priors' networks
    only.

    Args:
        mixture_codes: Codes of the mixtures, in the order in which the priors read them.
        priors: One prior per source. Sources with the same object are evaluated in one batch.
        likelihood: Log likelihood of the mixture given source codes: an `AdditiveLikelihood` for any number of sources,
            a `ChainLikelihood` for three or more, or a `PairLikelihood` for two.
        sampler: Rule that chooses tuples from the posterior.
        conditions: (M, S) classes of the sources, for class-conditional priors.
        likelihood_weight: Exponent λ of the likelihood; values above 1 give it more weight than the prior.
        mixture_latents: Unquantised latents of the mixtures, for likelihoods of latents.
        mixing_weights: Weight of each source in the mixture, for an `AdditiveLikelihood`; default 1 / S each.
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
    num_mixtures, num_sources = len(mixture_codes), len(priors)
    check_number("likelihood_weight", likelihood_weight, at_least=0)
    check_number("memory_budget", memory_budget, at_least=1, whole=True)
    weights = [1 / max(1, num_sources)] * num_sources if mixing_weights is None else list(mixing_weights)
    model = _Model(priors, likelihood, sampler, likelihood_weight, weights, memory_budget, progress)
    mixtures = _Mixtures(
        mixture_codes,
        mixture_latents,
        mixture_codes.new_empty(num_mixtures, num_sources, 0) if past is None else past,
        conditions,
        range(num_mixtures) if indices is None else indices,
        seed,
    )
    _check(mixtures, model)
    mixtures_at_once, candidates_at_once = _chunk_sizes(mixtures, model)
    separated = [_separate(chunk, model, candidates_at_once) for chunk in mixtures.split(mixtures_at_once)]
    return Candidates(*_joined(separated, 0))


@dataclass(frozen=True)
class _Model:
    """Everything that is the same for all mixtures."""

    priors: Sequence[Prior]
    likelihood: Likelihood
    sampler: Sampler
    likelihood_weight: float
    mixing_weights: Sequence[float]
    memory_budget: int
    progress: Progress


@dataclass(frozen=True)
class _Mixtures:
    """Everything that differs between mixtures; the first dimension of each field is M."""

    codes: Tensor  # (M, T)
    latents: Tensor | None  # (M, dim, T)
    past: Tensor  # (M, S, P)
    conditions: Tensor | None  # (M, S)
    indices: Sequence[int]
    seed: int

    def split(self, size: int) -> Iterator[_Mixtures]:
        """Yield chunks of at most `size` mixtures."""
        for start in range(0, len(self.codes), size):
            chunk = slice(start, start + size)
            latents = None if self.latents is None else self.latents[chunk]
            conditions = None if self.conditions is None else self.conditions[chunk]
            yield _Mixtures(self.codes[chunk], latents, self.past[chunk], conditions, self.indices[chunk], self.seed)


def _chunk_sizes(mixtures: _Mixtures, model: _Model) -> tuple[int, int]:
    """Number of mixtures per batch of the priors, and number of candidates of each: few enough for the memory."""
    num_candidates, device = model.sampler.num_candidates, mixtures.codes.device
    sequences_at_once = SEQUENCES_AT_ONCE.get(device.type, SEQUENCES_AT_ONCE["cuda"])
    wanted = min(len(mixtures.codes), max(1, sequences_at_once // (num_candidates * len(model.priors))))
    independent = isinstance(model.sampler, IndependentSampler) and model.sampler.independent
    length = mixtures.past.shape[-1] + mixtures.codes.shape[-1]
    return plan_chunks(model.priors, wanted, num_candidates, length, device, independent, model.memory_budget)


def _separate(mixtures: _Mixtures, model: _Model, candidates_at_once: int) -> tuple[Tensor | None, ...]:
    """Run Algorithm 1 for one batch of mixtures, in chunks of candidates; return the fields of `Candidates`."""
    device, num_candidates = mixtures.codes.device, model.sampler.num_candidates
    if candidates_at_once == num_candidates:
        generator = MixtureGenerators(mixtures.seed, mixtures.indices, device)
        return _sorted(*_run(mixtures, model, model.sampler, generator))
    chunks = []
    for first in range(0, num_candidates, candidates_at_once):
        own = slice(first, min(first + candidates_at_once, num_candidates))
        sampler = replace(cast(Any, model.sampler), num_candidates=own.stop - own.start)
        generator = CandidateGenerators(mixtures.seed, mixtures.indices, device, own, num_candidates)
        chunks.append(_run(mixtures, model, sampler, generator))
    codes, scores, log_weights = _joined(chunks, 1)
    return _sorted(codes, scores, log_weights)


def _joined(parts: Sequence[tuple[Any, ...]], dim: int) -> tuple[Any, ...]:
    """Concatenate field by field; a field that is None in the first part is None in the result."""
    return tuple(None if fields[0] is None else torch.cat(fields, dim) for fields in zip(*parts, strict=True))


def _run(
    mixtures: _Mixtures, model: _Model, sampler: Sampler, generator: MixtureGenerators
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Algorithm 1: return codes (M, N, S, T), scores (M, N) and log weights (M, N) or None."""
    num_mixtures, device = len(mixtures.codes), mixtures.codes.device
    priors = BatchedPriors(model.priors, mixtures.conditions)
    codes = mixtures.codes.new_empty(num_mixtures, 1, len(model.priors), 0)  # Lines 2, 3: an empty candidate each
    scores = torch.zeros(num_mixtures, 1, dtype=torch.float32, device=device)
    parents = torch.zeros_like(scores, dtype=torch.long)
    log_weights: Tensor | None = None

    for position, step_codes in enumerate(model.progress(mixtures.codes.T.tolist())):
        if position == 0:
            log_priors = priors.start(num_mixtures, sampler.num_candidates, device, mixtures.past)
        else:
            log_priors = priors.step(parents, codes[..., -1])  # Line 5
        latents = None if mixtures.latents is None else mixtures.latents[..., position].float()
        with full_precision(device):
            posterior = _posterior(model, log_priors, step_codes, latents, log_weights)  # Lines 6, 7
            parents, chosen, scores, log_weights = sampler.step(posterior, scores, generator)  # Line 8
        continued = codes.gather(1, parents[..., None, None].expand(-1, -1, *codes.shape[2:]))
        codes = torch.cat([continued, chosen[..., None]], -1)  # Lines 9, 10
    return codes, scores, log_weights


def _posterior(
    model: _Model,
    log_priors: Sequence[LogPrior],
    mixture_codes: list[int],
    latents: Tensor | None,
    log_weights: Tensor | None,
) -> Posterior:
    """Posterior of one position, for the kind of the likelihood."""
    likelihood, weight, budget = model.likelihood, model.likelihood_weight, model.memory_budget
    if isinstance(likelihood, ChainLikelihood):
        return ChainPosterior(log_priors, likelihood, mixture_codes, weight, log_weights, budget)
    if isinstance(likelihood, AdditiveLikelihood):
        if len(log_priors) != 2 or likelihood.num_codes**2 > MAX_PAIRS:
            return TuplePosterior(log_priors, likelihood, latents, model.mixing_weights, weight, log_weights, budget)
        pairs = likelihood.at(mixture_codes, latents, model.mixing_weights)
        symmetric = model.mixing_weights[0] == model.mixing_weights[1]
    else:
        pairs, symmetric = cast(PairLikelihood, likelihood).at(mixture_codes, latents), is_symmetric(likelihood)
    return StepPosterior(log_priors, pairs, weight, log_weights, budget, symmetric)


def _sorted(codes: Tensor, scores: Tensor, log_weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Sort candidates by score and normalise their weights; return the fields of `Candidates`."""
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    codes = codes.gather(1, order[..., None, None].expand_as(codes))
    if log_weights is None:
        possible = scores.isfinite().to(scores)
        return codes, scores, possible / possible.sum(1, keepdim=True).clamp(min=1), None
    weights = log_weights.gather(1, order).softmax(1).nan_to_num(0.0)
    return codes, scores, weights, log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def _check(mixtures: _Mixtures, model: _Model) -> None:
    """Raise LassError unless the parts fit together."""
    priors, num_codes = model.priors, model.likelihood.num_codes
    num_mixtures, num_positions = mixtures.codes.shape
    check_num_sources(len(priors), model.likelihood)
    if len(model.mixing_weights) != len(priors):
        raise LassError(
            f"mixing_weights must have one number above 0 for each of {len(priors)} sources, got "
            f"{list(model.mixing_weights)}."
        )
    for weight in model.mixing_weights:
        check_number("each of mixing_weights", weight, above=0)
    if num_mixtures == 0 or num_positions == 0:
        raise LassError(f"There is nothing to separate: got {num_mixtures} mixtures of {num_positions} codes.")
    for prior in priors:
        length = mixtures.past.shape[-1] + num_positions
        if isinstance(prior, BoundedPrior) and length > prior.num_positions:
            raise LassError(f"This prior is for sequences of {prior.num_positions} codes, but {length} were requested.")
        if prior.num_codes != num_codes:
            raise LassError(
                f"The prior has {prior.num_codes} codes and the likelihood {num_codes}: they were made for different "
                "codecs."
            )
    lowest, highest = int(mixtures.codes.min()), int(mixtures.codes.max())
    if not 0 <= lowest <= highest < num_codes:
        raise LassError(
            f"Mixture codes must be in 0…{num_codes - 1}, got {lowest}…{highest}: they come from another codec."
        )
    if mixtures.conditions is not None and tuple(mixtures.conditions.shape) != (num_mixtures, len(priors)):
        raise LassError(
            f"Expected conditions of shape ({num_mixtures}, {len(priors)}), got {tuple(mixtures.conditions.shape)}."
        )
    if len(mixtures.indices) != num_mixtures:
        raise LassError(f"Expected one index for each of {num_mixtures} mixtures, got {len(mixtures.indices)}.")
    if tuple(mixtures.past.shape[:2]) != (num_mixtures, len(priors)):
        raise LassError(
            f"Expected the past of {num_mixtures} mixtures and {len(priors)} sources, got the shape "
            f"{tuple(mixtures.past.shape)}."
        )
    if mixtures.latents is not None:
        check_finite({"latents": mixtures.latents}, "The mixture")
        if (mixtures.latents.shape[0], mixtures.latents.shape[-1]) != (num_mixtures, num_positions):
            raise LassError(
                f"Expected latents of {num_mixtures} mixtures at {num_positions} positions, got the shape "
                f"{tuple(mixtures.latents.shape)}."
            )
