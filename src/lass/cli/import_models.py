"""`lass import`: convert published models to codecs and priors of this project."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jsonargparse import Namespace
from safetensors import SafetensorError

from lass.artifacts import Artifact
from lass.cli.parser_errors import SentenceParser
from lass.codecs import VQGAN, AuthorsVQVAE, JukeboxVQVAE
from lass.codecs.jukebox import NATIVE_RATE
from lass.errors import LassError, check_sizes
from lass.importers.authors import AuthorsModels, read_authors
from lass.importers.jukebox import read_jukebox
from lass.importers.taming import read_taming
from lass.likelihood import SparseLikelihood
from lass.priors import HuggingFacePrior, JukeboxPrior, TransformerPrior
from lass.samplers import BeamSearch, TopK
from lass.separation import ClosestToMixture, HighestScore, LatentDescent, NoRefinement, Separator

DTYPES = ("float32", "bfloat16", "float16")


class Imported(NamedTuple):
    """Result of an import."""

    parts: dict[str, Artifact | SparseLikelihood]  #: by name of their folder or file
    said: str  #: message for the user
    separator: Separator | None = None  #: made of the parts, if they are complete

    def save(self, folder: Path) -> None:
        """Write the separator, or the parts."""
        if self.separator is not None:
            self.separator.save_pretrained(folder)
            return
        for name, part in self.parts.items():
            if isinstance(part, SparseLikelihood):
                part.save(folder / name)
            else:
                part.save_pretrained(folder / name)


def main(args: Sequence[str]) -> None:
    """Run `lass import`; see `lass import --help`.

    Raises:
        LassError: if the files cannot be read, or the output folder is not empty or cannot be written.
    """
    parsed = parser().parse_args(args[1:])
    options = parsed[parsed.model]
    out = Path(options.out)
    try:
        is_taken = os.path.lexists(out) and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise LassError(f"The folder {out} cannot be written ({error}): choose another --out.") from error
    if is_taken:
        raise LassError(f"{out} is there already: choose another folder with --out.")
    imported = IMPORTS[parsed.model](options, out)
    num_bytes = sum(tensor.nbytes for part in imported.parts.values() for tensor in part.state_dict().values())
    print(f"Writing {num_bytes / 2**20:,.0f} MiB to {out} …", flush=True)  # gigabytes take a minute
    made = [folder for folder in out.parents if not folder.exists()]  # innermost first
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".importing-") as folder:
            whole = Path(folder) / "whole"
            imported.save(whole)
            os.replace(whole, out)  # atomic
    except (OSError, SafetensorError) as error:
        raise LassError(f"The folder {out} cannot be written ({error}): choose another --out.") from error
    finally:
        if not os.path.lexists(out):
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()
    print(imported.said)


def import_authors(options: Namespace, out: Path) -> Imported:
    """Read models of the paper's authors; together they make a separator with the settings of the authors' code."""
    if options.vqvae is None and not options.prior and options.sums is None:
        raise LassError("Nothing to import: name at least one file, with --vqvae, --prior or --sums.")
    _check_rate(options.sample_rate)
    check_sizes(2**10, **{"--heads": options.heads})
    models = read_authors(options.vqvae, options.prior or [], options.sums, options.heads, options.sample_rate)
    parts: dict[str, Artifact | SparseLikelihood] = {}
    said = []
    if models.codec is not None:
        parts["codec"] = models.codec
        said += [_of_codec(out / "codec", models.codec)]
    for number, prior in enumerate(models.priors):
        name = "prior" if len(models.priors) == 1 else f"prior_{number}"
        parts[name] = prior
        said += [_of_prior(out / name, prior)]
    if models.likelihood is not None:
        parts["likelihood.safetensors"] = models.likelihood
        said += [f"{out / 'likelihood.safetensors'}: for {models.likelihood.num_codes} codes."]
    separator = _separator(models)
    if separator is not None:
        said += [f"Separate with `lass separate MIXTURE --separator {out}`."]
    return Imported(parts, "\n".join(said), separator)


def _separator(models: AuthorsModels) -> Separator | None:
    """Separator with the settings of the authors' code, or None if a model is missing."""
    codec, priors, likelihood = models
    if codec is None or not priors or likelihood is None:
        return None
    if isinstance(codec, AuthorsVQVAE):
        # The authors take 500 steps of Adam, but return the images decoded before the last one.
        refinement = LatentDescent(steps=499, learning_rate=0.1, halve_every=100, proximal_weight=1e-3)
        return Separator(codec, priors, likelihood, TopK(512, 32), ClosestToMixture(), refinement)
    return Separator(codec, priors, likelihood, BeamSearch(10), HighestScore(), NoRefinement(), likelihood_weight=3.0)


def import_jukebox(options: Namespace, out: Path) -> Imported:
    """Read a Jukebox checkpoint."""
    _check_rate(options.sample_rate)
    codec = read_jukebox(options.checkpoint, options.level, NATIVE_RATE // options.sample_rate)
    return Imported({"": codec}, f"{_of_codec(out, codec)} Use it as --model.codec={out} and --data.codec={out}.")


def import_taming(options: Namespace, out: Path) -> Imported:
    """Read a taming-transformers checkpoint: the codec, and the prior if the checkpoint has one."""
    codec, prior = read_taming(options.config, options.checkpoint, getattr(torch, options.dtype))
    said = _of_codec(out / "codec", codec)
    if prior is None:
        return Imported({"codec": codec}, f"{said} The checkpoint has no prior.")
    return Imported({"codec": codec, "prior": prior}, f"{said}\n{_of_prior(out / 'prior', prior, options.dtype)}")


IMPORTS = {"authors": import_authors, "jukebox": import_jukebox, "taming": import_taming}


def _check_rate(sample_rate: int) -> None:
    if sample_rate < 1 or NATIVE_RATE % sample_rate:
        raise LassError(f"--sample-rate must divide {NATIVE_RATE}, not {sample_rate}.")


def _of_codec(folder: Path, codec: AuthorsVQVAE | JukeboxVQVAE | VQGAN) -> str:
    """Sentence about a codec."""
    if isinstance(codec, JukeboxVQVAE):
        return (
            f"{folder}: a codec with {codec.num_codes} codes for mono audio at {codec.sample_rate} Hz, one code for "
            f"every {codec.hop} samples."
        )
    grid, shape = ("×".join(map(str, sizes)) for sizes in (codec.grid, codec.image_shape))
    return f"{folder}: {codec.num_codes} codes, {grid} for images of {shape}."


def _of_prior(folder: Path, prior: HuggingFacePrior | JukeboxPrior | TransformerPrior, dtype: str = DTYPES[0]) -> str:
    """Sentence about a prior."""
    num_classes = 0 if isinstance(prior, JukeboxPrior) else prior.num_classes
    kind = f"for {num_classes} classes" if num_classes else "unconditional"
    millions = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
    return f"{folder}: {kind}, {millions:,.0f} M parameters in {dtype}."


def parser() -> SentenceParser:
    """Build the parser of `lass import`."""
    authors = SentenceParser("lass import authors", "Convert the authors' models of MNIST, or of drums and bass.")
    authors.add_argument("--vqvae", help="256-sigmoid-big.pt, or Jukebox's vqvae.pth.tar; no code in the files is run")
    authors.add_argument(
        "--prior", nargs="+", help="unconditioned.pt, or prior_drums_44100.pth.tar prior_bass_44100.pth.tar"
    )
    authors.add_argument("--sums", help="sums.pt or sum_frequencies.npz, the counts")
    authors.add_argument("--heads", type=int, default=2, help="attention heads of a prior for images")
    authors.add_argument("--sample-rate", type=int, default=NATIVE_RATE, help="of your signals in Hz, for audio")
    authors.add_argument("--out", required=True, help="folder for codec/, prior/ and likelihood.safetensors")
    jukebox = SentenceParser("lass import jukebox", "Convert one level of the VQ-VAE of OpenAI's Jukebox to a codec.")
    jukebox.add_argument("checkpoint", help="as published, or .safetensors; no code in it is run")
    jukebox.add_argument("--level", type=int, default=2, help="0 (finest) to 2 (the top level, as in the paper)")
    jukebox.add_argument("--sample-rate", type=int, default=NATIVE_RATE // 2, help="of your signals, in Hz")
    jukebox.add_argument("--out", required=True, help="folder for the codec")
    taming = SentenceParser("lass import taming", "Convert a VQ-GAN, and the transformer over its codes.")
    taming.add_argument("--config", required=True, help="the YAML file beside the checkpoint")
    taming.add_argument("--checkpoint", required=True, help="as published, or .safetensors; no code in it is run")
    taming.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the prior's weights, on disk and in use")
    taming.add_argument("--out", required=True, help="folder for codec/ and prior/")
    parser = SentenceParser("lass import", __doc__)
    commands = {
        "authors": (authors, "the models of the paper's authors"),
        "jukebox": (jukebox, "the VQ-VAE of OpenAI's Jukebox"),
        "taming": (taming, "a VQ-GAN of taming-transformers or latent-diffusion, and its prior"),
    }
    parser.add_commands("model", commands)
    return parser
