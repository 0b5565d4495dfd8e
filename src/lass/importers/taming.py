"""Importer of the published VQ-GANs and transformers of CompVis/taming-transformers as codecs and priors.

The VQ-GANs of CompVis/latent-diffusion have the same architecture, one of them without attention, and are supported.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lass.artifacts import fingerprint
from lass.codecs import VQGAN, VectorQuantizer
from lass.errors import LassError
from lass.importers.checkpoints import fill, read_weights
from lass.importers.taming_config import PROGRAM, Section, read_model_section
from lass.priors import TransformerPrior

ORIGIN = "the table of models at https://github.com/CompVis/taming-transformers"
TRANSFORMER, DIFFUSION, LABELS = "Net2NetTransformer", "LatentDiffusion", "Labelator"
CODECS = {"VQModel": False, "VQModelInterface": False, "EMAVQ": False, "VQNoDiscModel": False, "GumbelVQ": True}
"""Class names of codecs, and whether their codes come from projections (`VQGAN.projected`)."""
FIRST_STAGE = "first_stage_model."  # prefix of the codec's weights in a transformer's checkpoint

#: Patterns of layer names in a checkpoint, and the names in `VQGAN`; \1, \2 and \3 are the captured groups.
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
PARTS = {"nin_shortcut": "shortcut", "proj_out": "to_out"}  # sublayers
CONVOLUTIONS = {"quant_conv": "to_latents", "post_quant_conv": "from_latents"}
BLOCK = {  # sublayers of a transformer block
    "ln1": "attention_norm",
    "ln2": "feedforward_norm",
    "attn.proj": "to_out",
    "mlp.0": "feedforward.0",
    "mlp.2": "feedforward.2",
}
MAX_LEVELS, MAX_BLOCKS = 12, 100  # resolutions of a VQ-GAN, and blocks at each; published ones have 6 and 2


def read_taming(
    config: str | Path, checkpoint: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[VQGAN, TransformerPrior | None]:
    """Read a codec, and its prior if the checkpoint has a transformer.

    Args:
        config: Path of the YAML file that belongs to the checkpoint.
        checkpoint: Path of `last.ckpt`, of a VQ-GAN or of a transformer with its VQ-GAN, in PyTorch's format or
            safetensors. No code in it is executed. From a model of latent-diffusion only the VQ-GAN is read.
        dtype: Data type of the prior's weights; the codec stays in float32.

    Returns:
        The codec, and the prior or None.

    Raises:
        LassError: if a file is missing or invalid, weights are missing or inconsistent with the configuration, or the
            model is conditioned on something other than classes.

    Source: Esser, Rombach and Ommer 2021 (arXiv:2012.09841); Rombach et al. 2022 (arXiv:2112.10752).
    """
    model = read_model_section(Path(config))
    weights, _ = read_weights(checkpoint, "state_dict", ORIGIN, PROGRAM)
    settings = model.section("params")
    try:
        if model.kind not in (TRANSFORMER, DIFFUSION):
            return _codec(model, weights, checkpoint), None
        of_codec = {name.removeprefix(FIRST_STAGE): w for name, w in weights.items() if name.startswith(FIRST_STAGE)}
        codec = _codec(settings.section("first_stage_config"), of_codec, checkpoint)
        prior = _prior(settings, weights, codec, dtype, checkpoint) if model.kind == TRANSFORMER else None
    except (IndexError, RuntimeError, TypeError) as error:  # tensors of unexpected shapes fail to concatenate or slice
        raise LassError(f"{checkpoint} has weights of other shapes than a model of {PROGRAM}.") from error
    if prior is not None:
        prior.codec_fingerprint = fingerprint(codec)
    return codec, prior


def _need(weights: Mapping[str, Tensor], name: str, checkpoint: str | Path) -> Tensor:
    if name not in weights:
        raise LassError(f"{checkpoint} has no {name}: it is not the checkpoint of {PROGRAM} that was expected.")
    return weights[name]


def _codec(model: Section, weights: Mapping[str, Tensor], checkpoint: str | Path) -> VQGAN:
    if model.kind not in CODECS:
        raise LassError(
            f"{model.file} describes a {model.kind:.60}: expected a {TRANSFORMER} or one of {', '.join(CODECS)}."
        )
    settings = model.section("params")
    layers = settings.section("ddconfig")
    attention = "linear" if layers.flag("use_linear_attn") else layers.get("attn_type", "vanilla")
    if attention not in ("vanilla", "none"):
        raise layers.wrong("attn_type", "vanilla or none", attention)
    for key in ("double_z", "tanh_out", "give_pre_end"):
        if layers.flag(key):
            raise LassError(f"{model.file} sets {key}, as other networks do: expected a VQ-GAN.")
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        half, _, layer = name.partition(".")
        if half in ("encoder", "decoder"):
            ours[f"{half}.{_layer(layer)}"] = tensor.float()
        elif half in CONVOLUTIONS:
            ours[f"{CONVOLUTIONS[half]}.{layer}"] = tensor.float()
    _join(ours, ("q", "k", "v"), "to_qkv")
    ours |= _quantizer(weights, CODECS[model.kind], checkpoint)
    resolution = layers.integer("resolution")
    sizes = {
        "image_shape": [layers.integer("in_channels"), resolution, resolution],
        "num_codes": len(ours["quantizer.codebook"]),
        "latent_dim": settings.integer("embed_dim"),
        "width": layers.integer("ch"),
        "width_multipliers": layers.integers("ch_mult", [1, 2, 4, 8], MAX_LEVELS),
        "num_residual_blocks": layers.integer("num_res_blocks", at_most=MAX_BLOCKS),
        "attention_at": layers.integers("attn_resolutions") if attention == "vanilla" else [],
        "hidden_dim": layers.integer("z_channels"),
        "learned_resampling": layers.flag("resamp_with_conv", True),
        "projected": CODECS[model.kind],
        "middle_attention": attention == "vanilla",
    }
    return fill(VQGAN, sizes, ours, checkpoint)


def _layer(name: str) -> str:
    for theirs, ours in LAYERS.items():
        name, found = re.subn(f"^{theirs}", ours, name)
        if found:
            break
    return ".".join(PARTS.get(part, part) for part in name.split("."))


def _join(weights: dict[str, Tensor], parts: tuple[str, str, str], joined: str) -> None:
    """Concatenate the weights of query, key and value layers into those of one joint layer, in place."""
    for name in [name for name in weights if f".{parts[0]}." in name]:
        names = [name.replace(f".{parts[0]}.", f".{part}.") for part in parts]
        if all(name in weights for name in names):
            weights[name.replace(f".{parts[0]}.", f".{joined}.")] = torch.cat([weights.pop(name) for name in names])


def _quantizer(weights: Mapping[str, Tensor], projected: bool, checkpoint: str | Path) -> dict[str, Tensor]:
    """State of the quantiser; the variants differ in how they were trained and in the names of their weights."""
    names = {"codebook": "quantize.embedding.weight"}
    if projected:
        names = {"codebook": "quantize.embed.weight", "directions": "quantize.proj.weight"}
        names |= {"offsets": "quantize.proj.bias"}
    found = {ours: _need(weights, theirs, checkpoint).float() for ours, theirs in names.items()}
    if projected:
        found["directions"] = found["directions"].flatten(1)
    if (used := weights.get("quantize.used")) is not None:  # codes then index the subset of used codebook entries
        found = {name: tensor[used] for name, tensor in found.items()}
    found |= VectorQuantizer.state_of(found["codebook"])
    return {f"quantizer.{name}": tensor for name, tensor in found.items()}


def _prior(
    settings: Section, weights: Mapping[str, Tensor], codec: VQGAN, dtype: torch.dtype, checkpoint: str | Path
) -> TransformerPrior:
    sizes = settings.section("transformer_config").section("params")
    positions = _need(weights, "transformer.pos_emb", checkpoint)
    num_positions, room = math.prod(codec.grid), min(sizes.integer("block_size"), positions.shape[1])
    if room < num_positions:
        raise LassError(f"The transformer has room for {room} codes, but an image has {num_positions}.")
    if sizes.integer("n_unmasked", 0, at_least=0) > 1:
        raise LassError("The transformer looks ahead (n_unmasked): expected one that sees the past only.")
    starts, num_classes = _starts(settings)
    embeddings = _need(weights, "transformer.tok_emb.weight", checkpoint)
    for what, number in (("codes", codec.num_codes), ("classes (or start codes)", starts[-1] + 1)):
        if len(embeddings) < number:
            raise LassError(f"The transformer has {len(embeddings)} codes, but {settings.file} has {number} {what}.")
    codes = slice(codec.num_codes)  # the transformer's vocabulary may be larger
    ours = {
        "code_embedding.weight": embeddings[codes],
        "start_embedding.weight": embeddings[list(starts)],
        "position_embedding": positions[0, :num_positions],
        "norm.weight": _need(weights, "transformer.ln_f.weight", checkpoint),
        "norm.bias": _need(weights, "transformer.ln_f.bias", checkpoint),
        "to_logits.weight": _need(weights, "transformer.head.weight", checkpoint)[codes],
        "to_logits.bias": torch.zeros(codec.num_codes),
    }
    # Converted block by block, so that little of the memory-mapped file is resident at once.
    of_block: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in weights.items():
        if match := re.match(r"transformer\.(blocks\.\d+)\.(.*)\.(weight|bias)$", name):
            of_block[match[1]][f".{BLOCK.get(match[2], match[2])}.{match[3]}"] = tensor
    num_layers = sizes.integer("n_layer", at_most=max(len(of_block), 1))
    for block in tqdm(list(of_block), "transformer", unit="block"):
        tensors = of_block.pop(block)
        _join(tensors, ("attn.query", "attn.key", "attn.value"), "to_qkv")
        ours |= {block + name: tensor.to(dtype) for name, tensor in tensors.items()}
    order = weights.get("permuter.forward_shuffle_idx")
    layers = {
        "num_codes": codec.num_codes,
        "num_positions": num_positions,
        "dim": sizes.integer("n_embd"),
        "num_layers": num_layers,
        "num_heads": sizes.integer("n_head"),
        "dropout": 0.0,
        "num_classes": num_classes,
        "order": None if order is None else order.tolist(),
    }
    return fill(TransformerPrior, layers, {name: tensor.to(dtype) for name, tensor in ours.items()}, checkpoint)


def _starts(settings: Section) -> tuple[range, int]:
    """Range of start codes (one per class, or one if unconditional), embedded as other codes; and number of classes."""
    condition = settings.get("cond_stage_config")
    if condition != "__is_first_stage__" and (settings.flag("unconditional") or condition == "__is_unconditional__"):
        first = settings.integer("sos_token", 0, at_least=0)
        return range(first, first + 1), 0
    labels = settings.section("cond_stage_config") if isinstance(condition, Mapping) else None
    kind = str(condition) if labels is None else labels.kind
    if labels is None or kind != LABELS:
        raise LassError(
            f"{settings.file} describes a model that is conditioned on {kind:.60}: expected classes, or no condition."
        )
    num_classes = labels.section("params").integer("n_classes")
    return range(num_classes), num_classes
