"""Importers of the VQ-VAE of openai/jukebox, and of priors that its code trained."""

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
from lass.importers.authors_images import ORIGIN as AUTHORS
from lass.importers.checkpoints import fill, read_weights
from lass.priors import JukeboxPrior

MAX_GROWTH = 100  # maximum growth factor of dilations
MAX_BLOCKS, MAX_HEADS = 2**13, 2**10
PATTERNS = {  # attention of the layers in turn, by attn_order
    0: ["all"],
    1: ["row", "column"],
    2: ["row", "column", "previous row"],
    9: ["row", "column", "previous row", "all"],
}
#: Layers of a prior's block in a checkpoint, and in `JukeboxPrior`.
LAYERS = {
    "attn.c_attn": "to_qkv",
    "attn.c_proj": "to_out",
    "ln_0": "attention_norm",
    "mlp.c_fc": "to_hidden",
    "mlp.c_proj": "from_hidden",
    "ln_1": "feedforward_norm",
}
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
    growth = _setting(beside.get("hps"), "dilation_growth_rate", 3, 1, MAX_GROWTH, path)
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


def read_jukebox_prior(path: str | Path) -> JukeboxPrior:
    """Read an unconditional prior that was trained with Jukebox's code, such as the authors' priors of single sources.

    The sizes of the network are inferred from the shapes of the weights. What they do not tell (`heads`, `blocks` and
    `attn_order`) is read from the `hps` in the checkpoint, by default as in Jukebox's "small_prior".

    Args:
        path: Path of the checkpoint, in PyTorch's format or safetensors. No code in it is executed.

    Raises:
        LassError: if the file is missing or damaged, is not such a checkpoint, or the prior is conditioned.
    """
    weights, beside = read_weights(path, "model", AUTHORS, "Jukebox")
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    settings = beside.get("hps")
    if others := [name for name in weights if not name.startswith("prior.")]:
        raise LassError(f"{path} is no unconditional prior of Jukebox: it has {others[0]:.60}, as other models do.")
    weights = {name.removeprefix("prior."): tensor.float() for name, tensor in weights.items()}
    embeddings, positions = (_matrix(weights, name, path) for name in ("x_emb.weight", "pos_emb.pos_emb"))
    start = _matrix(weights, "start_token", path)
    if not torch.equal(_matrix(weights, "x_out.weight", path), embeddings):
        raise LassError(f"{path} has an x_out that differs from x_emb: expected one matrix for both.")
    ours = {"code_embedding.weight": embeddings, "position_embedding": positions, "start_embedding": start[0]}
    for name, tensor in weights.items():
        if match := re.fullmatch(r"transformer\._attn_mods\.(\d+)\.(.+)\.(w|b|weight|bias)", name):
            layer, part, kind = match.groups()
            kind = {"w": "weight", "b": "bias"}.get(kind, kind)
            ours[f"blocks.{layer}.{LAYERS.get(part, part)}.{kind}"] = tensor.T if match[3] == "w" else tensor
        elif name not in ("x_emb.weight", "x_out.weight", "pos_emb.pos_emb", "start_token"):
            ours[name] = tensor  # not expected
    first = [_matrix(weights, f"transformer._attn_mods.0.{part}.w", path) for part in ("attn.c_proj", "mlp.c_proj")]
    order = _setting(settings, "attn_order", 2, 0, 12, path)
    num_blocks = _setting(settings, "blocks", 64, 1, MAX_BLOCKS, path) if order else 1
    if order not in PATTERNS or len(positions) % num_blocks:
        raise LassError(
            f"{path} has {len(positions)} positions in {num_blocks} blocks and the attention {order}: expected a "
            f"multiple, and one of {', '.join(map(str, PATTERNS))}."
        )
    sizes = {
        "num_codes": embeddings.shape[0],
        "num_positions": positions.shape[0],
        "dim": embeddings.shape[1],
        "num_layers": len({name.split(".")[1] for name in ours if name.startswith("blocks.")}),
        "num_heads": _setting(settings, "heads", 1, 1, MAX_HEADS, path),
        "attention_dim": first[0].shape[0],
        "hidden_dim": first[1].shape[0],
        "row_length": len(positions) // num_blocks,
        "patterns": PATTERNS[order],
    }
    return fill(JukeboxPrior, sizes, ours, path)


def _setting(settings: Any, name: str, default: int, at_least: int, at_most: int, path: str | Path) -> int:
    """Integer in the `hps` of a checkpoint, or the default if there is none."""
    value = settings.get(name, default) if isinstance(settings, dict) else default
    if type(value) is not int or not at_least <= value <= at_most:
        raise LassError(f"{path} must have an integer from {at_least} to {at_most} as {name} in its hps.")
    return value


def _matrix(weights: Mapping[str, Tensor], name: str, path: str | Path) -> Tensor:
    if name not in weights or weights[name].ndim != 2 or not weights[name].numel():
        raise LassError(f"{path} is no prior of Jukebox: it has no matrix {name}.")
    return weights[name]


def _plain(name: str) -> str:
    """Weight name without the parts that name container classes, which differ between the two implementations."""
    return ".".join(part for part in name.split(".") if part not in ("level_blocks", "model", "block"))


def _codebook(weights: Mapping[str, Tensor], level: int, path: str | Path) -> dict[str, Tensor]:
    name = f"bottleneck.level_blocks.{level}.k"
    if name not in weights or weights[name].ndim != 2:
        raise LassError(f"{path} is no VQ-VAE of Jukebox: it has no codebook {name} of two dimensions.")
    return VectorQuantizer.state_of(weights[name].float().clone())
