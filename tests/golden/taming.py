"""Makes taming.safetensors: what the code of CompVis/taming-transformers and latent-diffusion gives for small models.

    python tests/golden/taming.py FOLDER LDM_FOLDER

FOLDER is a clone of https://github.com/CompVis/taming-transformers, LDM_FOLDER one of
https://github.com/CompVis/latent-diffusion, in an environment where their modules can be imported.
Weights follow a formula, so that the file need not hold them; those of quantizers, latents of the model, are in it.
GumbelQuantize adds noise to its choice; here the choice without noise is kept.
"""

import itertools
import json
import math
import sys
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

CODES, CLASSES = 20, 5
MARGIN = 1e-4  # of the choice of codes, relative to the largest score; the rounding of float32 is far below
LAYERS = {
    "double_z": False,
    "z_channels": 8,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def codec(kind: str = "VQModel", embed_dim: int = 6, layers: dict = LAYERS, **settings) -> dict:
    """Configuration of a first stage."""
    params = {"embed_dim": embed_dim, "n_embed": CODES, "ddconfig": layers, **settings}
    params["lossconfig"] = {"target": "taming.modules.losses.DummyLoss"}
    return {"target": f"taming.models.vqgan.{kind}", "params": params}


def transformer(first_stage: dict, block_size: int = 70, **settings) -> dict:
    """Configuration of a transformer with its first stage."""
    sizes = {"vocab_size": CODES + 3, "block_size": block_size, "n_layer": 2, "n_head": 2, "n_embd": 16}
    gpt = {"target": "taming.modules.transformer.mingpt.GPT", "params": sizes}
    params = {"transformer_config": gpt, "first_stage_config": first_stage, **settings}
    return {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": params}


def ldm_codec(kind: str, layers: dict, **settings) -> dict:
    """Configuration of a first stage of latent-diffusion."""
    params = {"embed_dim": 6, "n_embed": CODES, "ddconfig": layers, **settings}
    return {
        "target": f"ldm.models.autoencoder.{kind}",
        "params": {**params, "lossconfig": {"target": "torch.nn.Identity"}},
    }


LABELS = {"target": "taming.modules.util.Labelator", "params": {"n_classes": CLASSES}}
SPIRAL = {"target": "taming.modules.transformer.permuter.SpiralIn", "params": {"H": 8, "W": 8}}
MODELS = {
    "plain": codec(),
    "attention": codec(layers=LAYERS | {"attn_resolutions": [16, 8], "num_res_blocks": 2}),
    "multipliers": codec(layers=LAYERS | {"ch_mult": [1, 1, 2], "resamp_with_conv": False}),
    "gumbel": codec("GumbelVQ", embed_dim=8, temperature_scheduler_config={"target": "torch.nn.Identity"}),
    "unconditional": transformer(codec(), cond_stage_config="__is_unconditional__", sos_token=7),
    "classes": transformer(codec(), cond_stage_config=LABELS, permuter_config=SPIRAL),
    "ldm": ldm_codec("VQModel", LAYERS | {"attn_type": "vanilla", "attn_resolutions": [8]}),
    "ldm_without_attention": ldm_codec(
        "VQModelInterface", LAYERS | {"attn_type": "none", "attn_resolutions": [8], "ch_mult": [1, 2]}
    ),
}
# For images of 256×256 as in the published models; only the shapes of its weights are kept.
LARGE = LAYERS | {"resolution": 256, "ch_mult": [1, 1, 1, 1, 1], "attn_resolutions": [16]}
SHAPES_ONLY = {"large": transformer(codec(layers=LARGE), 256, cond_stage_config=LABELS)}


def formula(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weights called `name`: digits of a sine that look random, as large as layers need to keep a signal's size."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    digits = (12.9898 * index + zlib.crc32(name.encode()) % 1000).sin() * 43758.5453
    values = ((digits - digits.floor() - 0.5) * 2).view(shape).float()
    if len(shape) == 1:
        return 0.3 * values + (1.0 if name.endswith("weight") else 0.0)  # of a norm, else a bias
    return values * (1.0 if "_emb" in name else 2 / math.sqrt(math.prod(shape[1:])))


def margin(vectors: Tensor, codebook: Tensor) -> float:
    """By how much the score of the chosen code exceeds the second largest, where that is least; relative to all."""
    scores = vectors.double() @ codebook.double().T - codebook.double().square().sum(1) / 2
    largest = scores.topk(2, dim=1).values
    return ((largest[:, 0] - largest[:, 1]).min() / scores.abs().max()).item()


def main(folder: str, ldm_folder: str) -> None:
    """Write the file beside this one."""
    sys.path[:1] = [folder, ldm_folder]  # in place of this folder, where taming is this file
    from ldm.util import instantiate_from_config

    golden, described = {}, {}
    for model_name, config in MODELS.items():
        model = instantiate_from_config(config).eval()
        buffers = {name for name, _ in model.named_buffers()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "shuffle_idx" not in name:
                    parameter.copy_(formula(name, tuple(parameter.shape)))
        first = getattr(model, "first_stage_model", model)
        for seed in itertools.count(len(golden)):  # until no position is near a tie between two codes
            signal = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                latents = first.quant_conv(first.encoder(2 * signal - 1))
            vectors = latents.movedim(1, -1).flatten(0, 2)
            chosen = vectors[torch.linspace(0, len(vectors) - 1, CODES).long()]
            if (decided := margin(vectors, chosen)) > MARGIN:
                break
        with torch.no_grad():
            if model_name == "gumbel":
                projection, table = first.quantize.proj, first.quantize.embed
                own = {"proj.weight": chosen[..., None, None], "proj.bias": -chosen.square().sum(1) / 2}
                own |= {"embed.weight": chosen.roll(1, 0)}
            else:
                projection, table = None, first.quantize.embedding
                own = {"embedding.weight": chosen}
            first.quantize.load_state_dict(own)
            if projection is None:
                codes = first.quantize(latents)[2][2].reshape(2, *latents.shape[2:])
            else:
                codes = projection(latents).argmax(1)
            decoded = first.decode(table(codes).movedim(-1, 1))
            kept = {"signal": signal, "codes": codes.int(), "decoded": (decoded + 1) / 2}
            kept |= {f"quantize.{name}": tensor for name, tensor in own.items()}
            if first is not model:
                _, read = model.encode_to_z(2 * signal - 1)
                _, condition = model.encode_to_c(torch.tensor([1, 4]))
                logits, _ = model.transformer(torch.cat([condition, read], 1)[:, :-1])
                kept |= {"read": read.int(), "log_probabilities": logits[..., :CODES].log_softmax(-1)}
        golden |= {f"{model_name}.{name}": tensor.contiguous() for name, tensor in kept.items()}
        state = model.state_dict()
        indices = {name: state[name].tolist() for name in buffers if name.endswith("shuffle_idx")}
        shapes = {name: list(x.shape) for name, x in state.items() if name not in buffers and "quantize." not in name}
        described[model_name] = {"config": config, "shapes": shapes, "indices": indices}
        print(f"{model_name}: {codes.unique().numel()} codes, decided by {decided:.1e}")
    for model_name, config in SHAPES_ONLY.items():
        state = instantiate_from_config(config).state_dict()
        shapes = {name: list(x.shape) for name, x in state.items() if not name.endswith("mask")}
        described[model_name] = {"config": config, "shapes": shapes, "indices": {}}
    save_file(golden, Path(__file__).with_suffix(".safetensors"), metadata={"models": json.dumps(described)})


if __name__ == "__main__":
    main(*sys.argv[1:])
