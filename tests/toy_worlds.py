"""Toy models that are small enough to enumerate, as exact references for the samplers and Algorithm 1.

The formulas are implemented literally, one sequence at a time, and share only the container of the likelihood with
`lass`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lass import separate_codes
from lass.artifacts import fingerprint
from lass.codecs import LatentCodec, codebook_of
from lass.likelihood import AdditiveLikelihood, AdditiveMoments, SparseLikelihood
from lass.samplers import Sampler
from lass.separation import Candidates

Sequences = tuple[tuple[int, ...], tuple[int, ...]]


class TablePrior:
    """Prior that is a first-order Markov chain, given by one set of tables per class."""

    def __init__(self, initial: Tensor, transition: Tensor) -> None:
        self.initial, self.transition = initial, transition  # (classes, K), (classes, K, K)
        self.num_codes = initial.shape[1]

    @cached_property
    def lists(self) -> tuple[list, list]:
        """Both tables as nested lists, which the enumeration reads much faster than tensors."""
        return self.initial.tolist(), self.transition.tolist()

    def start(self, num_sequences: int, condition: Tensor | None = None):
        none = torch.zeros(num_sequences, dtype=torch.long, device=self.initial.device)
        return {"classes": none if condition is None else condition}

    def step(self, state, codes: Tensor | None) -> Tensor:
        if codes is None:
            return self.initial[state["classes"]].log()
        return self.transition[state["classes"], codes].log()

    def select(self, state, parents: Tensor):
        return {"classes": state["classes"][parents]}

    def to(self, device: str) -> TablePrior:
        return TablePrior(self.initial.to(device), self.transition.to(device))

    def log_probability(self, codes: tuple[int, ...], label: int = 0) -> float:
        initial, transition = self.lists
        probability = initial[label][codes[0]]
        for before, after in itertools.pairwise(codes):
            probability *= transition[label][before][after]
        return math.log(probability) if probability > 0 else -math.inf


def random_prior(generator: torch.Generator, num_codes: int, zeros: bool, num_classes: int = 1) -> TablePrior:
    def table(*shape: int) -> Tensor:
        weights = torch.rand(*shape, generator=generator) ** 2 + 0.01
        if zeros:
            weights = weights * (torch.rand(*shape, generator=generator) > 0.3)
            weights[..., 0] += 0.05  # so that no row is zero
        return weights / weights.sum(-1, keepdim=True)

    return TablePrior(table(num_classes, num_codes), table(num_classes, num_codes, num_codes))


@dataclass
class World:
    """Toy model: two priors and a dense likelihood P[first, second, mixture]."""

    priors: list[TablePrior]
    dense: Tensor  # (K, K, K)

    @cached_property
    def lists(self) -> list:
        """The likelihood as nested lists, which the enumeration reads much faster than a tensor."""
        return self.dense.tolist()

    @property
    def num_codes(self) -> int:
        return self.dense.shape[0]

    @property
    def likelihood(self) -> SparseLikelihood:
        mixture, first, second = self.dense.permute(2, 0, 1).nonzero().T
        return SparseLikelihood(self.num_codes, first, second, mixture, self.dense[first, second, mixture].log())

    def separate(self, mixtures: list[list[int]], sampler: Sampler, device: str = "cpu", **options) -> Candidates:
        """Run Algorithm 1 on a device, and return its candidates on the CPU."""
        moved = {id(prior): prior.to(device) for prior in self.priors}  # a shared prior stays shared
        priors = [moved[id(prior)] for prior in self.priors]
        options = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in options.items()}
        found = separate_codes(
            torch.tensor(mixtures, device=device), priors, self.likelihood.to(device), sampler, **options
        )
        return on_cpu(found)

    def log_step(self, past: Sequences, first: int, second: int, mixture: int, weight: float, labels=(0, 0)) -> float:
        """Compute log p(first | past) + log p(second | past) + λ log P[first, second, mixture]."""
        likelihood = self.lists[first][second][mixture]
        if likelihood == 0:
            return -math.inf
        total = weight * math.log(likelihood)
        for prior, codes, code, label in zip(self.priors, past, (first, second), labels, strict=True):
            initial, transition = prior.lists
            row = initial[label] if not codes else transition[label][codes[-1]]
            total += math.log(row[code]) if row[code] > 0 else -math.inf
        return total

    def log_posterior(self, codes: Sequences, mixture: list[int], weight: float = 1.0, labels=(0, 0)) -> float:
        """Compute the unnormalised log posterior of a pair of whole sequences."""
        total = sum(p.log_probability(z, c) for p, z, c in zip(self.priors, codes, labels, strict=True))
        for a, b, m in zip(*codes, mixture, strict=True):
            probability = self.lists[a][b][m]
            total += weight * math.log(probability) if probability > 0 else -math.inf
        return total

    def all_posteriors(self, mixture: list[int], weight: float = 1.0, labels=(0, 0)) -> dict[Sequences, float]:
        """Compute the log posterior of every pair of sequences with non-zero probability."""
        sequences = list(itertools.product(range(self.num_codes), repeat=len(mixture)))
        scores = {
            pair: self.log_posterior(pair, mixture, weight, labels) for pair in itertools.product(sequences, repeat=2)
        }
        return {pair: score for pair, score in scores.items() if score > -math.inf}

    def stepwise_distribution(
        self, mixture: list[int], keep: int | None = None, temperature: float = 1.0, weight: float = 1.0
    ) -> dict[Sequences, float]:
        """Compute the distribution of sampling position by position.

        The posterior of each step is normalised over its `keep` best pairs.
        """
        beginnings: dict[Sequences, float] = {((), ()): 1.0}
        for m in mixture:
            longer: dict[Sequences, float] = {}
            for (z1, z2), probability in beginnings.items():
                steps = {
                    (a, b): self.log_step((z1, z2), a, b, m, weight)
                    for a, b in itertools.product(range(self.num_codes), repeat=2)
                }
                best = sorted(steps.items(), key=lambda item: -item[1])[:keep]
                weights = {pair: math.exp(score / temperature) for pair, score in best}
                total = sum(weights.values())
                if total == 0:
                    continue  # a dead end
                for (a, b), w in weights.items():
                    if w > 0:
                        longer[(*z1, a), (*z2, b)] = probability * w / total
            beginnings = longer
        return beginnings


def on_cpu(candidates: Candidates) -> Candidates:
    """Move candidates to the CPU, after a check that all their tensors are on one device."""
    found = {name: x for name, x in vars(candidates).items() if x is not None}
    assert len({x.device for x in found.values()}) == 1
    return Candidates(**{name: x.cpu() for name, x in found.items()})


def random_world(
    seed: int, num_codes: int = 3, zeros: bool = False, shared: bool = False, num_classes: int = 1
) -> World:
    """Draw a toy model with random tables; `zeros` adds steps of probability zero."""
    generator = torch.Generator().manual_seed(seed)
    first = random_prior(generator, num_codes, zeros, num_classes)
    second = first if shared else random_prior(generator, num_codes, zeros, num_classes)
    dense = torch.rand(num_codes, num_codes, num_codes, generator=generator) + 0.02
    if zeros:
        dense = dense * (torch.rand(dense.shape, generator=generator) > 0.4)
        dense[0, 0] += 0.02  # at least one pair stays possible
    dense = dense / dense.sum(-1, keepdim=True).clamp(min=1e-9)
    return World([first, second], dense)


def counted(codes: Tensor) -> Counter:
    """Count the different pairs of sequences among candidates (N, S, T)."""
    distinct, counts = codes.unique(dim=0, return_counts=True)
    return Counter(dict(zip(map(as_sequences, distinct), counts.tolist(), strict=True)))


@torch.no_grad()
def fitted_additive(codec: LatentCodec, signals: Tensor) -> AdditiveLikelihood:
    """Fit an additive likelihood to the means of tuples of signals, (tuples, sources, channels, *space)."""

    def by_position(values: Tensor) -> Tensor:
        """Convert (batch, dim, *grid) to (batch · T, dim)."""
        return values.flatten(2).movedim(1, 2).flatten(0, 1)

    sources = signals.transpose(0, 1)
    codes, latents = zip(*((codec.encode(x), codec.encode_latents(x)) for x in sources), strict=True)
    errors = [x - codec.embed(z) for x, z in zip(latents, codes, strict=True)]
    moments = AdditiveMoments(codec.num_codes, latents[0].shape[1], codec_fingerprint=fingerprint(codec))
    moments.add(
        torch.stack([z.flatten() for z in codes], 1),
        torch.stack([by_position(x) for x in errors], 1),
        torch.stack([by_position(x) for x in latents], 1),
        by_position(codec.encode_latents(sources.mean(0))),
    )
    return moments.likelihood(codebook_of(codec))


def as_sequences(codes: Tensor) -> Sequences:
    """Convert codes (S, T) to nested tuples."""
    return tuple(tuple(row) for row in codes.tolist())
