"""`lass separate`: separate image or audio files with a saved separator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lass.cli.files import kind_of
from lass.cli.parser_errors import SentenceParser
from lass.cli.threads import num_threads
from lass.errors import LassError, check_number

DESCRIPTION = """Separate image files (mixture.png into mixture-1.png, mixture-2.png, …) or songs (song.mp3 into one WAV
file per instrument), and draw a picture of the result."""

OUT = Path("separated")  # default folder, with one folder per separator and in it one per file


def main(args: Sequence[str]) -> None:
    """Run `lass separate`; see `lass separate --help`.

    Raises:
        LassError: if a file cannot be read or would be overwritten (both are checked before the first separation), or
            if an estimate cannot be written.
    """
    options = parser().parse_args(args[1:])
    if options.seed < 0:
        raise LassError(f"The seed must be 0 or more, not {options.seed}.")
    if options.threads is not None:
        check_number("--threads", options.threads, at_least=1, at_most=1024, whole=True)
    name, found = (options.separator, None) if options.separator else _default_for(options.mixtures)

    # Imported here, because it takes seconds, and --help and mistakes in the options do not need it.
    import torch

    from lass.cli.images import AUTO, separate_images
    from lass.cli.loading import load_separator
    from lass.cli.songs import separate_songs
    from lass.codecs import AudioCodec, ImageCodec
    from lass.hub import folder_of

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    automatic = options.num_sources == AUTO
    num_sources = None if automatic else options.num_sources
    separator = load_separator(found or folder_of(name), options.device, num_sources)
    root, nested = (OUT / _model_name(name), True) if options.out is None else (options.out, False)
    if isinstance(separator.codec, AudioCodec):
        if automatic:
            raise LassError(
                f"--num-sources {AUTO} is for images: leave it out for songs, which have one prior a source."
            )
        separate_songs(separator, options, root, nested)
    elif isinstance(separator.codec, ImageCodec):
        separate_images(separator, separator.codec, options, root, nested)
    else:
        raise LassError(f"The separator in {name} is neither for images nor for audio files.")


def _model_name(name: str) -> str:
    """Return the name of a separator's folder of outputs: mnist for pretrained/mnist and organisation-name of the Hub.

    Stage 4 calls its separators `separator`: runs/mnist/separate/separator becomes mnist-separate.
    """
    if not Path(name).is_dir():
        return name.replace("/", "-")
    *_, before, parent, last = (".", ".", *Path(name).resolve().parts)
    return f"{before}-{parent}" if last == "separator" else last


def _default_for(mixtures: Sequence[Path]) -> tuple[str, Path]:
    """Return name and folder of the published separator for the kind of the files, and print it with its licence."""
    from lass.hub import default_for, folder_of_published

    kind = kind_of(mixtures)
    model = default_for(kind)
    if model is None:
        what, dataset = {"image": ("images", "mnist"), "audio": ("songs", "slakh")}[kind]
        raise LassError(
            f"No separator for {what} is published yet: name the folder of one with --separator, e.g. one that you "
            f"trained with `make train-vqvae DATASET={dataset}` and the other stages in the README."
        )
    print(f"Separator: {model.name}, licence {model.licence}. {model.description}.", flush=True)
    return model.name, folder_of_published(model)


def parser() -> SentenceParser:
    """Build the parser of `lass separate`."""
    options = SentenceParser("lass separate", DESCRIPTION)
    options.add_argument("mixtures", nargs="+", type=Path, help="image or audio files, or folders of them")
    options.add_argument(
        "--separator",
        metavar="MODEL",
        help="folder, published model or repository of the Hugging Face Hub as organisation/name; default: the "
        "published model for images or songs, which is printed",
    )
    options.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for the estimates and the picture; default: separated/MODEL/FILE/, one folder for each file",
    )
    options.add_argument(
        "--num-sources",
        metavar="N|auto",
        type=int | Literal["auto"],
        help="number of sources, if one prior is for all of them; auto determines it for each image, from 1 to 4",
    )
    options.add_argument(
        "--classes", metavar="N", type=int, nargs="+", help="class of each source, where they are known"
    )
    options.add_argument(
        "--fit",
        metavar="crop|pad",
        type=Literal["crop", "pad"],
        help="adapt images of another size or kind instead of refusing them: crop cuts off what exceeds the aspect "
        "ratio at both ends, pad adds black, then the image is resized; transparent pixels become black, which adds "
        "nothing to a mixture, 16 bits become 8, and colours grey where the separator is for grey images",
    )
    options.add_argument("--seed", metavar="N", type=int, default=0, help="another one gives another sample")
    options.add_argument("--device", default="cpu", help="cpu, cuda, …")
    options.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="CPU threads; default: OMP_NUM_THREADS if it is set, otherwise all CPUs that the process may use, here "
        f"{num_threads()}. 1 is the fastest while other programs use all CPUs",
    )
    options.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run in the folder")
    return options
