"""`lass import`: convert published models to codecs and priors of this project."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace
from safetensors import SafetensorError

from lass.artifacts import Artifact
from lass.cli.parser_errors import SentenceParser
from lass.codecs.jukebox import NATIVE_RATE
from lass.errors import LassError
from lass.importers.jukebox import read_jukebox
from lass.importers.taming import read_taming

DTYPES = ("float32", "bfloat16", "float16")


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
    parts, said = (import_jukebox if parsed.model == "jukebox" else import_taming)(options, out)
    num_bytes = sum(tensor.nbytes for part in parts.values() for tensor in part.state_dict().values())
    print(f"Writing {num_bytes / 2**20:,.0f} MiB to {out} …", flush=True)  # gigabytes take a minute
    made = [folder for folder in out.parents if not folder.exists()]  # innermost first
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".importing-") as folder:
            whole = Path(folder) / "whole"
            for name, part in parts.items():
                part.save_pretrained(whole / name)
            os.replace(whole, out)  # atomic
    except (OSError, SafetensorError) as error:
        raise LassError(f"The folder {out} cannot be written ({error}): choose another --out.") from error
    finally:
        if not os.path.lexists(out):
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()
    print(said)


def import_jukebox(options: Namespace, out: Path) -> tuple[dict[str, Artifact], str]:
    """Read a Jukebox checkpoint.

    Returns:
        The codec to save, by its name in `out`, and a message for the user.
    """
    if options.sample_rate < 1 or NATIVE_RATE % options.sample_rate:
        raise LassError(f"--sample-rate must divide {NATIVE_RATE}, not {options.sample_rate}.")
    codec = read_jukebox(options.checkpoint, options.level, NATIVE_RATE // options.sample_rate)
    return {"": codec}, (
        f"{out}: a codec with {codec.num_codes} codes for mono audio at {codec.sample_rate} Hz, one code for every "
        f"{codec.hop} samples. Use it as --model.codec={out} and --data.codec={out}."
    )


def import_taming(options: Namespace, out: Path) -> tuple[dict[str, Artifact], str]:
    """Read a taming-transformers checkpoint.

    Returns:
        The codec, and the prior if the checkpoint has one, by their names in `out`; and a message for the user.
    """
    codec, prior = read_taming(options.config, options.checkpoint, getattr(torch, options.dtype))
    rows, columns = codec.grid
    channels, height, width = codec.image_shape
    said = f"{out / 'codec'}: {codec.num_codes} codes, {rows}×{columns} for images of {channels}×{height}×{width}."
    if prior is None:
        return {"codec": codec}, f"{said} The checkpoint has no prior."
    kind = f"for {prior.num_classes} classes" if prior.num_classes else "unconditional"
    millions = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
    said = f"{said}\n{out / 'prior'}: {kind}, {millions:,.0f} M parameters in {options.dtype}."
    return {"codec": codec, "prior": prior}, said


def parser() -> SentenceParser:
    """Build the parser of `lass import`."""
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
        "jukebox": (jukebox, "the VQ-VAE of OpenAI's Jukebox"),
        "taming": (taming, "a VQ-GAN of taming-transformers or latent-diffusion, and its prior"),
    }
    parser.add_commands("model", commands)
    return parser
