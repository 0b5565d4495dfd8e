"""Importer of the VQ-VAE of openai/jukebox from its published checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lass.codecs.jukebox import NATIVE_RATE, JukeboxVQVAE
from lass.codecs.quantizer import VectorQuantizer
from lass.errors import LassError
from lass.importers.checkpoints import fill, read_weights

MAX_GROWTH = 100  # maximum growth factor of dilations
ORIGIN = "https://openaipublic.azureedge.net/jukebox/models/5b/vqvae.pth.tar"


def read_jukebox(path: str | Path, level: int = 2, upsampling: int = 2) -> JukeboxVQVAE:
    """Read one level of a checkpoint of openai/jukebox (`vqvae.pth.tar`) as a codec.

    The sizes of the network are inferred from the shapes of the weights.

    Args:
        path: Path of the checkpoint, in PyTorch's format or safetensors. No code in it is executed.
        level: Level of the hierarchy: 0 is the finest (hop 8 at 44,100 Hz), 2 the top level (hop 128).
        upsampling: 2 for signals at 22,050 Hz, 1 for signals at 44,100 Hz.

    Raises:
        LassError: if the file is missing or damaged, is not such a checkpoint, or lacks the level.
    """
    weights, beside = read_weights(path, "model", ORIGIN, "Jukebox")
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    settings = beside.get("hps")
    growth = settings.get("dilation_growth_rate", 3) if isinstance(settings, dict) else 3
    if type(growth) is not int or not 1 <= growth <= MAX_GROWTH:
        raise LassError(f"{path} must have an integer from 1 to {MAX_GROWTH} as dilation_growth_rate in its hps.")
    levels = {match[1] for name in weights if (match := re.match(r"encoders\.(\d+)\.", name))}
    if str(level) not in levels:
        raise LassError(
            f"{path} has the levels {', '.join(sorted(levels))}, so --level must be one of them, not {level}."
            if levels
            else f"{path} is no VQ-VAE of Jukebox: expected weights called encoders.0.level_blocks and so on."
        )
    prefixes = {
        f"encoders.{level}.": "encoder.",
        f"decoders.{level}.out.": "out.",
        f"decoders.{level}.": "decoder.",
    }
    ours = {f"quantizer.{name}": tensor for name, tensor in _codebook(weights, level, path).items()}
    for name, tensor in weights.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix:
            ours[_plain(prefixes[prefix] + name.removeprefix(prefix))] = tensor.float().clone()  # no view of the file
    blocks = range(len({name.split(".")[1] for name in ours if name.startswith("encoder.")}))
    first = [[w for name, w in ours.items() if re.fullmatch(rf"encoder\.{i}\.\d+\.0\.weight", name)] for i in blocks]
    depths = {int(match[1]) for name in ours if (match := re.match(r"encoder\.0\.0\.1\.(\d+)\.", name))}
    try:
        sizes: dict[str, Any] = {
            "downs": [len(convolutions) for convolutions in first],
            "strides": [convolutions[0].shape[2] // 2 for convolutions in first],
            "width": first[0][0].shape[0],
            "depth": len(depths),
            "latent_dim": ours["quantizer.codebook"].shape[1],
            "num_codes": ours["quantizer.codebook"].shape[0],
            "dilation_growth": growth,
            "upsampling": upsampling,
            "sample_rate": NATIVE_RATE // upsampling,
        }
        with torch.device("meta"):
            names = {_plain(name): name for name in JukeboxVQVAE(**sizes).state_dict()}
    except (RuntimeError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise LassError(f"{path} is no VQ-VAE of Jukebox with the layers of level {level}: {reason}.") from error
    return fill(JukeboxVQVAE, sizes, {names.get(name, name): tensor for name, tensor in ours.items()}, path)


def _plain(name: str) -> str:
    """Weight name without the parts that name container classes, which differ between the two implementations."""
    return ".".join(part for part in name.split(".") if part not in ("level_blocks", "model", "block"))


def _codebook(weights: Mapping[str, Tensor], level: int, path: str | Path) -> dict[str, Tensor]:
    name = f"bottleneck.level_blocks.{level}.k"
    if name not in weights or weights[name].ndim != 2:
        raise LassError(f"{path} is no VQ-VAE of Jukebox: it has no codebook {name} of two dimensions.")
    return VectorQuantizer.state_of(weights[name].float().clone())
