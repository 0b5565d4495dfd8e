"""Conv-TasNet: masks on a learned representation of the waveform."""

from __future__ import annotations

from collections.abc import Sequence

from lass.artifacts import register
from lass.errors import check_number, check_sizes
from lass.methods.supervised import SupervisedSeparator, torchaudio_model

MAX_WIDTH, MAX_LAYERS, MAX_STACKS = 2**14, 16, 64  # limits of sizes from a file; dilations are 2^layer


@register
class ConvTasNet(SupervisedSeparator):
    """Non-causal Conv-TasNet of torchaudio with ReLU masks; see `SupervisedSeparator`.

    The letters are those of the paper. Its largest network has L 16 at 8 kHz (2 ms), N 512, B 128, H 512, X 8 and R 3:
    5.1 million parameters; these defaults have 1.5 million, and L 64 at 22,050 Hz (2.9 ms).

    Args:
        classes, sample_rate, num_samples, rescale, weights: See `SupervisedSeparator`.
        kernel_size: Length L of the filters of encoder and decoder in samples; their stride is half of it.
        num_filters: Number N of filters.
        num_features: Channels B between the blocks.
        num_hidden: Channels H inside a block.
        num_layers: Number X of blocks in a stack; block x has the dilation 2^x.
        num_stacks: Number R of stacks.

    Raises:
        LassError: if a setting is out of range, or torchaudio is not installed.

    Source: Luo and Mesgarani 2019 (arXiv:1809.07454), Table I; row of Table 5 of LASS (arXiv:2301.08562).
    """

    def __init__(
        self,
        classes: Sequence[str] = ("drums", "bass"),
        sample_rate: int = 22050,
        num_samples: int = 66150,
        rescale: bool = True,
        weights: Sequence[float] | None = None,
        kernel_size: int = 64,
        num_filters: int = 256,
        num_features: int = 128,
        num_hidden: int = 256,
        num_layers: int = 7,
        num_stacks: int = 2,
    ) -> None:
        settings = {
            "kernel_size": kernel_size,
            "num_filters": num_filters,
            "num_features": num_features,
            "num_hidden": num_hidden,
            "num_layers": num_layers,
            "num_stacks": num_stacks,
        }
        super().__init__(classes, sample_rate, num_samples, rescale, weights, **settings)
        check_sizes(MAX_WIDTH, num_filters=num_filters, num_features=num_features, num_hidden=num_hidden)
        check_sizes(MAX_LAYERS, num_layers=num_layers)
        check_sizes(MAX_STACKS, num_stacks=num_stacks)
        check_number("kernel_size", kernel_size, at_least=2, at_most=MAX_WIDTH, whole=True)
        self.network = torchaudio_model("ConvTasNet")(
            num_sources=self.num_sources,
            enc_kernel_size=kernel_size,
            enc_num_feats=num_filters,
            msk_num_feats=num_features,
            msk_num_hidden_feats=num_hidden,
            msk_num_layers=num_layers,
            msk_num_stacks=num_stacks,
            msk_activate="relu",
        )
