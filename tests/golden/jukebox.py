"""Makes jukebox.safetensors: what openai/jukebox's own code gives for small random weights.

    python tests/golden/jukebox.py FOLDER

FOLDER is a clone of https://github.com/openai/jukebox with what it imports installed. Its VQ-VAE moves the codebook to
a GPU when it is made; without one, that move is left out here.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

NUM_LEVELS, SIZES = 3, {"downs_t": (3, 2, 2), "strides_t": (2, 2, 2), "emb_width": 6, "l_bins": 12}


def margin(latents: torch.Tensor, codebook: torch.Tensor) -> float:
    """By how much the nearest vectors are nearer than the second ones, where that is least, relative to the largest
    distance. It must be far above the rounding of float32, so that codes are the same on every machine."""
    nearest = torch.cdist(latents.double(), codebook.double()).square().sort(1).values
    least = ((nearest[:, 1] - nearest[:, 0]).min() / nearest.max()).item()
    assert least > 1e-4, f"{least}: take another seed"
    return least


def main(folder: str) -> None:
    """Write the file beside this one."""
    sys.path.insert(0, folder)
    torch.Tensor.cuda = lambda tensor: tensor
    from jukebox.vqvae.vqvae import VQVAE

    torch.manual_seed(1)
    model = VQVAE(
        input_shape=(1024, 1),
        levels=NUM_LEVELS,
        mu=0.99,
        commit=0.02,
        spectral=0.0,
        multispectral=1.0,
        multipliers=(2, 1, 1),
        width=4,
        depth=2,
        m_conv=1.0,
        dilation_growth_rate=3,
        reverse_decoder_dilation=True,
        **SIZES,
    ).eval()
    for name, parameter in model.named_parameters():
        # Larger than its own initial weights, so that codes differ from position to position, and signals stay near 1.
        parameter.data = torch.randn_like(parameter) * (
            0.1 if name.endswith("bias") else 0.9 * parameter[0].numel() ** -0.5
        )
    signal = torch.randn(2, 1024, 1)
    golden = {"signal": signal.transpose(1, 2)}
    with torch.no_grad():
        for level in range(NUM_LEVELS):
            latents = model.encoders[level](model.preprocess(signal))[-1].transpose(1, 2).flatten(0, 1)
            codebook = latents[torch.randperm(len(latents))[: SIZES["l_bins"]]]
            model.bottleneck.level_blocks[level].k.copy_(codebook)
            print(f"level {level}: codes are decided by {margin(latents, codebook):.1e}")
        for level, codes in enumerate(model.encode(signal)):
            golden[f"codes.{level}"] = codes.int()
            golden[f"decoded.{level}"] = model.decode([codes], level, level + 1).transpose(1, 2)
    golden |= {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(
        {name: tensor.contiguous() for name, tensor in golden.items()}, Path(__file__).with_suffix(".safetensors")
    )
    for level in range(NUM_LEVELS):
        largest = golden[f"decoded.{level}"].abs().max().item()
        print(f"level {level}: {len(golden[f'codes.{level}'].unique())} codes, signals up to {largest:.2g}")


if __name__ == "__main__":
    main(sys.argv[1])
