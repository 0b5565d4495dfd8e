"""`lass import`: make published models into codecs of this project."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lass.codecs.jukebox import NATIVE_RATE, read_jukebox
from lass.errors import LassError


def main(args: Sequence[str]) -> None:
    """Entry point; see `lass import --help`.

    Raises:
        LassError: if the checkpoint cannot be read, or something would be overwritten.
    """
    options = parser().parse_args(args)
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LassError(f"{out} is there already: choose another folder with --out.")
    if options.sample_rate < 1 or NATIVE_RATE % options.sample_rate:
        raise LassError(f"--sample-rate must divide {NATIVE_RATE}, not {options.sample_rate}.")
    codec = read_jukebox(options.checkpoint, options.level, NATIVE_RATE // options.sample_rate)
    try:
        codec.save_pretrained(out)
    except OSError as error:
        raise LassError(f"The folder {out} cannot be written ({error.strerror}): choose another --out.") from error
    print(
        f"{out}: a codec with {codec.num_codes} codes for mono audio at {codec.sample_rate} Hz, one code for every "
        f"{codec.hop} samples. Use it as --model.codec={out} and --data.codec={out}."
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser("lass import", description=__doc__)
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    jukebox = models.add_parser("jukebox", help="the VQ-VAE of OpenAI's Jukebox")
    jukebox.add_argument("checkpoint", help="vqvae.pth.tar as published; no code in it is run")
    jukebox.add_argument("--level", type=int, default=2, help="0 (finest) to 2 (the top level, as in the paper)")
    jukebox.add_argument("--sample-rate", type=int, default=NATIVE_RATE // 2, help="of your signals, in Hz")
    jukebox.add_argument("--out", required=True, help="folder for the codec")
    return parser
