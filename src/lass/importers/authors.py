"""Importer of the published models of the paper's authors, for MNIST and for drums and bass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lass.artifacts import fingerprint
from lass.codecs import AuthorsVQVAE, JukeboxVQVAE, codebook_of
from lass.codecs.jukebox import NATIVE_RATE
from lass.errors import LassError
from lass.importers.authors_images import ORIGIN, PROGRAM, read_gpt2, read_vqvae
from lass.importers.checkpoints import read_weights
from lass.importers.jukebox import read_jukebox, read_jukebox_prior
from lass.importers.sums import read_sums
from lass.likelihood import SparseLikelihood
from lass.priors import HuggingFacePrior, JukeboxPrior

TOP_LEVEL = 2  # of Jukebox's VQ-VAE
OF_AUDIO = ("bottleneck.", "prior.")  # prefixes of weights in Jukebox's checkpoints


class AuthorsModels(NamedTuple):
    """The models of one experiment, as far as their files are given."""

    codec: AuthorsVQVAE | JukeboxVQVAE | None
    priors: list[HuggingFacePrior | JukeboxPrior]
    likelihood: SparseLikelihood | None


def read_authors(
    vqvae: str | Path | None = None,
    priors: Sequence[str | Path] = (),
    sums: str | Path | None = None,
    num_heads: int = 2,
    sample_rate: int = NATIVE_RATE,
) -> AuthorsModels:
    """Read models of the authors' code; whether they are those of images or of audio is seen from their weights.

    If the VQ-VAE is given, priors and likelihood record that they are for this codec, and the likelihood uses for a
    mixture code that was never counted the pairs of the nearest one.

    Args:
        vqvae: Path of the VQ-VAE.
        priors: Paths of the priors: of one for both sources, or of one per source.
        sums: Path of the sums.
        num_heads: Number of attention heads of a prior for images, see `read_gpt2`.
        sample_rate: Sample rate of the signals in Hz, for a codec for audio; see `read_jukebox`.

    Raises:
        LassError: if a file is missing, damaged or something else, or the files have different numbers of codes.
    """
    codec = made_for = codebook = None
    if vqvae is not None:
        codec = read_jukebox(vqvae, TOP_LEVEL, NATIVE_RATE // sample_rate) if _is_audio(vqvae) else read_vqvae(vqvae)
        made_for, codebook = fingerprint(codec), codebook_of(codec)
    read = [read_jukebox_prior(path) if _is_audio(path) else read_gpt2(path, num_heads) for path in priors]
    for prior in read:
        prior.codec_fingerprint = made_for
    counts = None if sums is None else read_sums(sums, made_for)
    numbers = {
        str(path): part.num_codes
        for path, part in zip([vqvae, *priors, sums], [codec, *read, counts], strict=True)
        if part is not None
    }
    if len(set(numbers.values())) > 1:
        found = ", ".join(f"{path} has {number}" for path, number in numbers.items())
        raise LassError(f"The files have different numbers of codes ({found}): expected those of one experiment.")
    return AuthorsModels(codec, read, None if counts is None else counts.likelihood(codebook=codebook))


def _is_audio(path: str | Path) -> bool:
    weights, _ = read_weights(path, "model", ORIGIN, PROGRAM)
    return any(name.removeprefix("module.").startswith(OF_AUDIO) for name in weights)
