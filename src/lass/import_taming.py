"""Models of CompVis/taming-transformers: a VQ-GAN, and the transformer over its codes, from their published files."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor
from tqdm.auto import tqdm

from lass.artifacts import fingerprint
from lass.checkpoints import read_checkpoint, weights_in
from lass.codecs import VQGAN, VectorQuantizer
from lass.errors import LassError
from lass.priors import TransformerPrior

PROGRAM = "taming-transformers"
ORIGIN = "the table of models at https://github.com/CompVis/taming-transformers"
TRANSFORMER, LABELS = "Net2NetTransformer", "Labelator"
CODECS = {"VQModel": False, "EMAVQ": False, "VQNoDiscModel": False, "GumbelVQ": True}  # whether codes are projected
FIRST_STAGE = "first_stage_model."  # of names of the codec's weights in a transformer's checkpoint

#: Names of layers, theirs and ours. A checkpoint's index of a level or a block goes where the \1 and \2 are.
LAYERS = {
    r"conv_in\.": "first.",
    r"norm_out\.": "norm.",
    r"conv_out\.": "last.",
    r"mid\.block_(\d)\.": r"middle_block_\1.",
    r"mid\.attn_1\.": "middle_attention_1.",
    r"(down|up)\.(\d+)\.block\.(\d+)\.": r"\1_\2_block_\3.",
    r"(down|up)\.(\d+)\.attn\.(\d+)\.": r"\1_\2_attention_\3.",
    r"(down|up)\.(\d+)\.(?:downsample|upsample)\.": r"\1_\2_resample.",
}
PARTS = {"nin_shortcut": "shortcut", "proj_out": "to_out"}  # of a layer
CONVOLUTIONS = {"quant_conv": "to_latents", "post_quant_conv": "from_latents"}
BLOCK = {  # of the transformer
    "ln1": "attention_norm",
    "ln2": "feedforward_norm",
    "attn.proj": "to_out",
    "mlp.0": "feedforward.0",
    "mlp.2": "feedforward.2",
}
NUM_NAMED = 3  # wrong weights in an error

C = TypeVar("C", VQGAN, TransformerPrior)


def read_taming(
    config: str | Path, checkpoint: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[VQGAN, TransformerPrior | None]:
    """The codec, and the prior if the checkpoint has one.

    Args:
        config: the project's YAML file beside the checkpoint.
        checkpoint: `last.ckpt`, of a VQ-GAN or of a transformer with its VQ-GAN. No code in it is run.
        dtype: of the prior's weights; the codec keeps full precision.

    Raises:
        LassError: if a file is missing or something else, weights are missing or have other sizes than the
            configuration says, or the model is conditioned on something that is no class.

    Source: Esser, Rombach and Ommer 2021 (arXiv:2012.09841).
    """
    model = _model_in(Path(config))
    weights = weights_in(read_checkpoint(checkpoint, ORIGIN), "state_dict", checkpoint, PROGRAM)
    if _kind(model, config) != TRANSFORMER:
        return _codec(model, weights, config, checkpoint), None
    settings = _need(model, "params", config)
    of_codec = {name.removeprefix(FIRST_STAGE): w for name, w in weights.items() if name.startswith(FIRST_STAGE)}
    codec = _codec(_need(settings, "first_stage_config", config), of_codec, config, checkpoint)
    prior = _prior(settings, weights, codec, dtype, config, checkpoint)
    prior.codec_fingerprint = fingerprint(codec)
    return codec, prior


def _model_in(config: Path) -> Mapping[str, Any]:
    if not config.is_file():
        raise LassError(f"There is no configuration at {config}: it is the YAML file beside the checkpoint.")
    try:
        content = yaml.safe_load(config.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LassError(f"{config} is no YAML: name the configuration beside the checkpoint.") from error
    return _need(content, "model", config)


def _need(mapping: Any, name: str, path: str | Path) -> Any:
    if not isinstance(mapping, Mapping) or name not in mapping:
        raise LassError(f"{path} has no {name}: it is not the file of {PROGRAM} that was expected.")
    return mapping[name]


def _kind(described: Mapping[str, Any], config: str | Path) -> str:
    return str(_need(described, "target", config)).rsplit(".", 1)[-1]


def _codec(
    described: Mapping[str, Any], weights: Mapping[str, Tensor], config: str | Path, checkpoint: str | Path
) -> VQGAN:
    kind = _kind(described, config)
    if kind not in CODECS:
        raise LassError(f"{config} describes a {kind}: expected a {TRANSFORMER} or one of {', '.join(CODECS)}.")
    settings = _need(described, "params", config)
    layers = _need(settings, "ddconfig", config)
    if layers.get("double_z"):
        raise LassError(f"{config} says double_z, as models without quantisation do: expected a VQ-GAN.")
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        half, _, layer = name.partition(".")
        if half in ("encoder", "decoder"):
            ours[f"{half}.{_layer(layer)}"] = tensor.float()
        elif half in CONVOLUTIONS:
            ours[f"{CONVOLUTIONS[half]}.{layer}"] = tensor.float()
    _join(ours, ("q", "k", "v"), "to_qkv")
    ours |= _quantizer(weights, CODECS[kind], checkpoint)
    resolution = _need(layers, "resolution", config)
    sizes = {
        "image_shape": [_need(layers, "in_channels", config), resolution, resolution],
        "num_codes": len(ours["quantizer.codebook"]),
        "latent_dim": _need(settings, "embed_dim", config),
        "width": _need(layers, "ch", config),
        "width_multipliers": list(layers.get("ch_mult", (1, 2, 4, 8))),
        "num_residual_blocks": _need(layers, "num_res_blocks", config),
        "attention_at": list(_need(layers, "attn_resolutions", config)),
        "hidden_dim": _need(layers, "z_channels", config),
        "learned_resampling": layers.get("resamp_with_conv", True),
        "projected": CODECS[kind],
    }
    return _filled(VQGAN, sizes, ours, checkpoint)


def _layer(name: str) -> str:
    for theirs, ours in LAYERS.items():
        name, found = re.subn(f"^{theirs}", ours, name)
        if found:
            break
    return ".".join(PARTS.get(part, part) for part in name.split("."))


def _join(weights: dict[str, Tensor], parts: tuple[str, str, str], joined: str) -> None:
    """Replace the weights of queries, keys and values by those of one layer that gives all three."""
    for name in [name for name in weights if f".{parts[0]}." in name]:
        names = [name.replace(f".{parts[0]}.", f".{part}.") for part in parts]
        if all(name in weights for name in names):
            weights[name.replace(f".{parts[0]}.", f".{joined}.")] = torch.cat([weights.pop(name) for name in names])


def _quantizer(weights: Mapping[str, Tensor], projected: bool, checkpoint: str | Path) -> dict[str, Tensor]:
    """Of whichever variant: they differ in how they were trained, and in the names of their weights."""
    names = {"codebook": "quantize.embedding.weight"}
    if projected:
        names = {"codebook": "quantize.embed.weight", "directions": "quantize.proj.weight"}
        names |= {"offsets": "quantize.proj.bias"}
    found = {ours: _need(weights, theirs, checkpoint).float() for ours, theirs in names.items()}
    if projected:
        found["directions"] = found["directions"].flatten(1)
    if (used := weights.get("quantize.used")) is not None:  # indices are then among the codes that were ever used
        found = {name: tensor[used] for name, tensor in found.items()}
    found |= VectorQuantizer.state_of(found["codebook"])
    return {f"quantizer.{name}": tensor for name, tensor in found.items()}


def _prior(
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    codec: VQGAN,
    dtype: torch.dtype,
    config: str | Path,
    checkpoint: str | Path,
) -> TransformerPrior:
    sizes = _need(_need(settings, "transformer_config", config), "params", config)
    num_positions, room = math.prod(codec.grid), _need(sizes, "block_size", config)
    if room < num_positions:
        raise LassError(f"The transformer has room for {room} codes, but an image has {num_positions}.")
    if sizes.get("n_unmasked", 0) > 1:
        raise LassError("The transformer looks ahead (n_unmasked): expected one that sees the past only.")
    starts, num_classes = _starts(settings, config)
    embeddings = _need(weights, "transformer.tok_emb.weight", checkpoint)
    for what, number in (("codes", codec.num_codes), ("classes (or start codes)", max(starts) + 1)):
        if len(embeddings) < number:
            raise LassError(f"The transformer knows {len(embeddings)} codes, but {config} has {number} {what}.")
    codes = slice(codec.num_codes)  # it may have room for more
    ours = {
        "code_embedding.weight": embeddings[codes],
        "start_embedding.weight": embeddings[starts],
        "position_embedding": _need(weights, "transformer.pos_emb", checkpoint)[0, :num_positions],
        "norm.weight": _need(weights, "transformer.ln_f.weight", checkpoint),
        "norm.bias": _need(weights, "transformer.ln_f.bias", checkpoint),
        "to_logits.weight": _need(weights, "transformer.head.weight", checkpoint)[codes],
        "to_logits.bias": torch.zeros(codec.num_codes),
    }
    # Block by block, so that little of a mapped file is in memory at once beside the result.
    of_block: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in weights.items():
        if match := re.match(r"transformer\.(blocks\.\d+)\.(.*)\.(weight|bias)$", name):
            of_block[match[1]][f".{BLOCK.get(match[2], match[2])}.{match[3]}"] = tensor
    for block in tqdm(list(of_block), "transformer", unit="block"):
        tensors = of_block.pop(block)
        _join(tensors, ("attn.query", "attn.key", "attn.value"), "to_qkv")
        ours |= {block + name: tensor.to(dtype) for name, tensor in tensors.items()}
    order = weights.get("permuter.forward_shuffle_idx")
    layers = {
        "num_codes": codec.num_codes,
        "num_positions": num_positions,
        "dim": _need(sizes, "n_embd", config),
        "num_layers": _need(sizes, "n_layer", config),
        "num_heads": _need(sizes, "n_head", config),
        "dropout": 0.0,
        "num_classes": num_classes,
        "order": None if order is None else order.tolist(),
    }
    return _filled(TransformerPrior, layers, {name: tensor.to(dtype) for name, tensor in ours.items()}, checkpoint)


def _starts(settings: Mapping[str, Any], config: str | Path) -> tuple[list[int], int]:
    """The codes that stand for "nothing yet", or for each class (embedded as all others are), and how many classes."""
    condition = settings.get("cond_stage_config")
    if condition != "__is_first_stage__" and (settings.get("unconditional") or condition == "__is_unconditional__"):
        return [int(settings.get("sos_token", 0))], 0
    kind = str(condition.get("target")).rsplit(".", 1)[-1] if isinstance(condition, Mapping) else str(condition)
    if kind != LABELS:
        raise LassError(f"{config} describes a model that is conditioned on {kind}: expected classes, or no condition.")
    num_classes = _need(_need(condition, "params", config), "n_classes", config)
    return list(range(num_classes)), num_classes


def _filled(kind: type[C], sizes: dict[str, Any], weights: dict[str, Tensor], checkpoint: str | Path) -> C:
    """A module of these sizes and weights.

    Raises:
        LassError: if they do not belong together.
    """
    with torch.device("meta"):
        module = kind(**sizes)
    expected = module.state_dict()
    wrong = [f"{name} is missing" for name in expected if name not in weights]
    wrong += [f"{name} is not expected" for name in weights if name not in expected]
    wrong += [
        f"{name} is {'×'.join(map(str, weights[name].shape))} instead of {'×'.join(map(str, tensor.shape))}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        some = ", ".join(wrong[:NUM_NAMED]) + (f" and {len(wrong) - NUM_NAMED} more" if len(wrong) > NUM_NAMED else "")
        raise LassError(f"{checkpoint} and its configuration do not belong together ({kind.__name__}: {some}).")
    module.load_state_dict(weights, assign=True)
    return module.eval()
