"""Importer of the models for MNIST of the authors' code (`lass_mnist`): VQ-VAE and GPT-2 prior."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lass.codecs import AuthorsVQVAE, VectorQuantizer
from lass.errors import LassError
from lass.importers.checkpoints import fill, read_weights
from lass.priors import HuggingFacePrior

PROGRAM = "the authors"
ORIGIN = "the README files of https://github.com/gladia-research-group/latent-autoregressive-source-separation"
IMAGE_SIZE = 28  # pixels of a digit's side, which the weights do not tell
START_TOKEN = 0  # the authors' unconditional prior starts with the token of code 0
BATCH_NORM_EPSILON = 1e-5

BLOCKS = {"encoder.4": "encoder.3", "encoder.5": "encoder.4", "decoder.0": "decoder.0", "decoder.1": "decoder.1"}
#: Convolutions in a VQ-VAE's checkpoint, the batch normalisation that follows each, and the name in `AuthorsVQVAE`.
CONVOLUTIONS = [
    ("encoder.0", "encoder.1", "encoder.0"),
    ("encoder.3", None, "encoder.2"),
    ("decoder.3", "decoder.4", "decoder.3"),
    ("decoder.6", None, "decoder.5"),
    *((f"{block}.block.1", f"{block}.block.2", f"{ours}.block.1") for block, ours in BLOCKS.items()),
    *((f"{block}.block.4", f"{block}.block.5", f"{ours}.block.3") for block, ours in BLOCKS.items()),
]


def read_vqvae(path: str | Path) -> AuthorsVQVAE:
    """Read the authors' VQ-VAE for MNIST (`256-sigmoid-big.pt`) as a codec.

    Args:
        path: Path of the state dictionary, in PyTorch's format or safetensors. No code in it is executed.

    Raises:
        LassError: if the file is missing or damaged, or is not such a model.
    """
    weights, _ = read_weights(path, "state_dict", ORIGIN, PROGRAM)
    codebook = _need(weights, "codeBook.embedding.weight", path, dimensions=2).float().clone()
    images = _need(weights, "encoder.0.weight", path, dimensions=4).shape[1]
    ours = {f"quantizer.{name}": tensor for name, tensor in VectorQuantizer.state_of(codebook).items()}
    for theirs, norm, name in CONVOLUTIONS:
        weight, bias = (_need(weights, f"{theirs}.{part}", path).float().clone() for part in ("weight", "bias"))
        if norm is not None:
            weight, bias = _fused(weight, bias, weights, norm, path, transposed=theirs.startswith("decoder.3"))
        ours |= {f"{name}.weight": weight, f"{name}.bias": bias}
    sizes = {
        "image_shape": [images, IMAGE_SIZE, IMAGE_SIZE],
        "num_codes": codebook.shape[0],
        "width": codebook.shape[1],
    }
    return fill(AuthorsVQVAE, sizes, ours, path)


def read_gpt2(path: str | Path, num_heads: int = 2) -> HuggingFacePrior:
    """Read the authors' prior for MNIST (`unconditioned.pt`), the weights of a GPT-2 of Hugging Face's transformers.

    The start token is the token of code 0, as in the authors' code, and code k is token k.

    Args:
        path: Path of the state dictionary, in PyTorch's format or safetensors. No code in it is executed.
        num_heads: Number of attention heads, which the weights do not tell; 2 in the authors' configuration.

    Raises:
        LassError: if the file is missing or damaged, or is not such a model.
    """
    weights, _ = read_weights(path, "state_dict", ORIGIN, PROGRAM)
    embeddings = _need(weights, "transformer.wte.weight", path, dimensions=2)
    positions = _need(weights, "transformer.wpe.weight", path, dimensions=2)
    head = weights.get("lm_head.weight", embeddings)
    if head.shape != embeddings.shape or not torch.equal(head, embeddings):
        raise LassError(f"{path} has an lm_head that differs from wte: expected one matrix for both, as in GPT-2.")
    if embeddings.shape[1] % num_heads:
        raise LassError(f"{path} has layers of width {embeddings.shape[1]}, which {num_heads} heads do not divide.")
    ours = {f"model.{name}": tensor.float() for name, tensor in weights.items() if not _is_mask(name)}
    ours["model.lm_head.weight"] = ours["model.transformer.wte.weight"]
    model = {
        "model_type": "gpt2",
        "vocab_size": embeddings.shape[0],
        "n_positions": positions.shape[0],
        "n_embd": embeddings.shape[1],
        "n_layer": len({match[1] for name in weights if (match := re.match(r"transformer\.h\.(\d+)\.", name))}),
        "n_head": num_heads,
        "bos_token_id": START_TOKEN,
        "eos_token_id": None,
    }
    sizes: dict[str, Any] = {"model": model, "num_codes": embeddings.shape[0], "start_token": START_TOKEN}
    checked = fill(HuggingFacePrior, sizes, ours, path)
    prior = HuggingFacePrior(**sizes)  # again off the meta device, as models may have buffers that are not weights
    prior.load_state_dict(checked.state_dict())
    return prior.eval()


def _is_mask(name: str) -> bool:
    """Whether an entry is a constant causal mask, which versions of transformers before 4.31 stored."""
    return name.endswith((".attn.bias", ".attn.masked_bias"))


def _need(weights: Mapping[str, Tensor], name: str, path: str | Path, dimensions: int | None = None) -> Tensor:
    if name not in weights:
        raise LassError(f"{path} has no {name}: it is not the model of {PROGRAM} that was expected.")
    if dimensions is not None and weights[name].ndim != dimensions:
        raise LassError(f"{path} has a {name} of {weights[name].ndim} dimensions: expected {dimensions}.")
    return weights[name]


def _fused(
    weight: Tensor, bias: Tensor, weights: Mapping[str, Tensor], norm: str, path: str | Path, transposed: bool
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that includes the batch normalisation after it, as it is in eval mode."""
    mean, variance, scale, shift = (
        _need(weights, f"{norm}.{part}", path).float() for part in ("running_mean", "running_var", "weight", "bias")
    )
    try:
        fused = fuse_conv_bn_weights(weight, bias, mean, variance, BATCH_NORM_EPSILON, scale, shift, transposed)
    except (RuntimeError, IndexError) as error:
        raise LassError(f"{path} has weights of other shapes than a VQ-VAE of {PROGRAM} ({norm}).") from error
    return fused[0].detach(), fused[1].detach()
