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


def main(folder: str) -> None:
    """Write the file beside this one."""
    sys.path.insert(0, folder)
    torch.Tensor.cuda = lambda tensor: tensor
    from jukebox.vqvae.vqvae import VQVAE

    torch.manual_seed(0)
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
        # Larger than its own initial weights, so that codes differ from position to position.
        parameter.data = torch.randn_like(parameter) * (
            0.1 if name.endswith("bias") else 1.5 / parameter[0].numel() ** 0.5
        )
    signal = torch.randn(2, 1024, 1)
    golden = {"signal": signal.transpose(1, 2)}
    with torch.no_grad():
        for level in range(NUM_LEVELS):
            latents = model.encoders[level](model.preprocess(signal))[-1].transpose(1, 2).flatten(0, 1)
            codebook = latents[torch.randperm(len(latents))[: SIZES["l_bins"]]]
            model.bottleneck.level_blocks[level].k.copy_(codebook)
        for level, codes in enumerate(model.encode(signal)):
            golden[f"codes.{level}"] = codes.int()
            golden[f"decoded.{level}"] = model.decode([codes], level, level + 1).transpose(1, 2)
    golden |= {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(
        {name: tensor.contiguous() for name, tensor in golden.items()}, Path(__file__).with_suffix(".safetensors")
    )
    print([len(golden[f"codes.{level}"].unique()) for level in range(NUM_LEVELS)])


if __name__ == "__main__":
    main(sys.argv[1])
