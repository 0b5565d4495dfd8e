"""Negative log posterior of the true pair of codes per position, given the true past, in nats.

    python benchmarks/ambiguity.py                            # MNIST, the models in pretrained/mnist
    python benchmarks/ambiguity.py runs/mnist/separate/separator runs/mnist/likelihood/latents.safetensors

At each position the posterior of Algorithm 1 (Lines 5 to 7) is computed for all pairs, given the true codes at the
previous positions; the negative log probability of the true pair is averaged over positions. Smaller values mean that
prior and likelihood determine the true pair better. No separation is needed, so this is a quick comparison of codecs,
priors and likelihoods; likelihoods other than the separator's can be named. Only the last lines of the output separate:
for two, three and four sources they count the mixtures whose best candidate has a higher score than the true codes, for
which a longer search cannot help, and give the share of the candidates (by weight) that have one. If the models were
exact, the true codes would be a sample of the posterior like the candidates, and the mean share would be about 50 %.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lass import Separator, SparseCounts
from lass.codecs import codebook_of
from lass.data.images.mnist import MNIST
from lass.data.mixing import mix
from lass.likelihood import AdditiveLikelihood, Likelihood, load_likelihoods

NUM_MIXTURES = 24
NEVER_COUNTED = 1e-7  # likelihood of a triple that was never counted, so that its log is finite


@torch.no_grad()
def true_codes(
    separator: Separator, likelihood: Likelihood | None, weight: float, sources: Tensor, with_prior: bool = True
) -> tuple[float, Tensor]:
    """Return nats per position of the true pairs, and the scores of the true codes, (mixtures,), as in Algorithm 1.

    Args:
        separator: Separator whose codec and prior are used.
        likelihood: Likelihood of the pairs; None for the prior alone.
        weight: λ.
        sources: (mixtures, 2, channels, height, width).
        with_prior: Whether the prior is used; False for the likelihood alone.
    """
    codec, prior = separator.codec, separator.priors[0]
    mixtures = mix(sources)
    codes = codec.encode(sources.flatten(0, 1)).flatten(1)
    log_prior = prior(codes).log_softmax(-1) if with_prior else torch.zeros(*codes.shape, codec.num_codes)
    mixture_codes, latents = codec.encode(mixtures).flatten(1), codec.encode_latents(mixtures).flatten(2)
    nats, scores = 0.0, torch.zeros(len(mixtures))
    for i, (first, second) in enumerate(tqdm(codes.view(len(mixtures), 2, -1), leave=False)):
        for position in range(codes.shape[1]):
            one, other = log_prior[2 * i, position], log_prior[2 * i + 1, position]
            joint = one[:, None] + other
            if likelihood is not None:
                (pairs,) = likelihood.at([int(mixture_codes[i, position])], latents[i : i + 1, :, position])
                table = torch.full_like(joint, NEVER_COUNTED).log()
                table[pairs.first, pairs.second] = pairs.log_likelihood
                joint = joint + weight * table
            score = joint[first[position], second[position]]
            nats += float(joint.logsumexp((0, 1)) - score)
            scores[i] += score
    return nats / codes[::2].numel(), scores


@torch.no_grad()
def true_scores(separator: Separator, likelihood: AdditiveLikelihood, sources: Tensor) -> Tensor:
    """Return the scores of the true codes of any number of sources, (mixtures,), as in Algorithm 1.

    Args:
        separator: Separator whose codec, prior and λ are used.
        likelihood: Its likelihood.
        sources: (mixtures, sources, channels, height, width).
    """
    codes = separator.codec.encode(sources.flatten(0, 1)).flatten(1)
    log_prior = separator.priors[0](codes).log_softmax(-1).gather(2, codes[..., None])
    latents = separator.codec.encode_latents(mix(sources)).flatten(2).mT
    tuples = codes.unflatten(0, sources.shape[:2]).mT
    log_likelihood = likelihood.log_likelihood(tuples, latents).sum(1)
    return log_prior.flatten(1).sum(1).view(len(sources), -1).sum(1) + separator.likelihood_weight * log_likelihood


def validation_sources(num_sources: int) -> Tensor:
    """Return the sources of validation mixtures, (mixtures, sources, channels, height, width)."""
    data = MNIST(
        predict_split="validation", num_mixtures=NUM_MIXTURES, batch_size=NUM_MIXTURES, num_sources=num_sources
    )
    return next(iter(data.predict_dataloader())).signals


def main(folder: str = "pretrained/mnist", *others: str) -> None:
    """Print the nats for the prior alone, each likelihood alone, and both together; then compare scores."""
    separator = Separator.from_pretrained(folder)
    codebook = codebook_of(separator.codec)
    shipped = Path(folder) / "counts.safetensors"
    counts = SparseCounts.load(shipped if shipped.exists() else "runs/mnist/likelihood/counts.safetensors")
    likelihoods = {"counts": counts.likelihood(codebook=codebook), "the separator's": separator.likelihood}
    likelihoods |= {Path(path).stem: load_likelihoods([path], codebook=codebook) for path in others}
    sources = validation_sources(2)
    print(f"{folder}, {len(sources)} validation mixtures; nats per position for the true pair of codes")
    print(f"prior alone                          {true_codes(separator, None, 1.0, sources)[0]:6.3f}")
    for name, likelihood in likelihoods.items():
        alone, _ = true_codes(separator, likelihood, 1.0, sources, with_prior=False)
        print(f"{name:15} alone                {alone:6.3f}")
        for weight in (0.5, 0.75, 1.0):
            nats, _ = true_codes(separator, likelihood, weight, sources)
            print(f"{name:15} and prior, λ = {weight:<4}  {nats:6.3f}")
    for num_sources in (2, 3, 4) if isinstance(separator.likelihood, AdditiveLikelihood) else ():
        sources, own = validation_sources(num_sources), separator.with_num_sources(num_sources)
        true = true_scores(own, separator.likelihood, sources)
        result = own.separate_batch(mix(sources))
        best, weights = result.scores[:, 0], result.weights
        share = (weights * (result.scores > true[:, None])).sum(1).mean()
        above, difference = int((best > true).sum()), (best - true).median()
        print(
            f"{num_sources} sources: best candidate above the true codes in {above} of {len(true)} mixtures; median "
            f"difference {difference:.1f} nats; {share:.0%} of the candidates above the true codes on average",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
