"""Stage 1 for a codec of power spectrograms: learn its codebook by k-means on single sources."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from tqdm.auto import tqdm

from lass.codecs import SpectrogramCodec
from lass.data.module import check_sample_rate
from lass.data.sources import Sources
from lass.errors import LassError, check_number
from lass.metrics import CodeUsage
from lass.optional import optional_package
from lass.tasks.trainer import datamodule_of, is_dry_run

FOLDER = "codec"
DECIBELS = 10 / math.log(10)  # of one unit of a log power
BATCH = 4096  # vectors in a step of k-means


class CodebookFitting(LightningModule):
    """Collects the latents of one epoch of sources, fits the codebook, and saves the codec.

    Each group of mel bands has its own k-means. The codec is saved to `<default_root_dir>/codec`. No optimizer is used.
    One process only.

    Args:
        codec: Codec whose codebook is replaced.
        max_vectors: Largest number of training vectors of a group; more are drawn from at random.
        max_epochs: Passes of k-means over the vectors.

    Raises:
        LassError: if a setting is out of range; in `fit`, if there are several processes, tuples instead of sources, or
            fewer vectors than codes.

    Source: mini-batch k-means, Sculley 2010, "Web-scale k-means clustering".
    """

    def __init__(self, codec: SpectrogramCodec, max_vectors: int = 200_000, max_epochs: int = 30) -> None:
        super().__init__()
        check_number("max_vectors", max_vectors, at_least=codec.codes_per_band, whole=True)
        check_number("max_epochs", max_epochs, at_least=1, whole=True)
        self.automatic_optimization = False
        self.artifact, self.max_vectors, self.max_epochs = codec, max_vectors, max_epochs
        self._latents: dict[str, list[Tensor]] = {}
        # Distributed strategies require at least one parameter with a gradient.
        self.nothing_to_train = torch.nn.Parameter(torch.zeros(()))

    def setup(self, stage: str) -> None:
        """Check the sample rate of the data, and that this is the only process."""
        if self.trainer.world_size > 1:
            raise LassError(
                f"The codebook is fitted by one process, not {self.trainer.world_size}: set --trainer.devices=1."
            )
        check_sample_rate(datamodule_of(self.trainer), self.artifact)

    def configure_optimizers(self) -> None:
        """Return no optimizer, because k-means has its own updates."""

    def on_train_epoch_start(self) -> None:
        """Forget the latents of an earlier epoch."""
        self._latents = {"train": [], "val": []}

    def training_step(self, batch: Any) -> None:
        """Collect the latents of a batch."""
        self._collect("train", batch)

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Collect the latents of a batch."""
        if not self.trainer.sanity_checking:
            self._collect("val", batch)

    def _collect(self, part: str, batch: Any) -> None:
        if not isinstance(batch, Sources):
            raise LassError("A codebook is fitted to single sources, but the data gives tuples: set data.tuples=false.")
        self._latents[part].append(self.artifact.encode_latents(batch.signals.float()).cpu())

    def on_train_epoch_end(self) -> None:
        """Fit the codebook, log its error on training and validation sources in dB, and save the codec."""
        codec = self.artifact
        vectors = {part: torch.cat(latents).movedim(1, -1) for part, latents in self._latents.items() if latents}
        chosen = vectors["train"].unflatten(1, (-1, codec.block)).flatten(0, 1)  # (blocks, G, d)
        chosen = chosen[torch.randperm(len(chosen))[: self.max_vectors]]
        if len(chosen) < codec.codes_per_band:
            raise LassError(
                f"The training sources have {len(chosen)} blocks, fewer than the {codec.codes_per_band} codes of a "
                "group: use more audio or fewer codes_per_band."
            )
        cluster = optional_package("sklearn.cluster", "scikit-learn", "train")
        centres = []
        for group in tqdm(chosen.unbind(1), desc="Fitting codebooks"):
            k_means = cluster.MiniBatchKMeans(
                codec.codes_per_band, batch_size=BATCH, n_init=1, max_iter=self.max_epochs, random_state=0
            )
            centres.append(torch.from_numpy(k_means.fit(group.numpy()).cluster_centers_))
        codec.codebook.copy_(torch.cat(centres))
        usage = CodeUsage(codec.num_codes)
        for part, latents in vectors.items():
            deviations = torch.zeros(())
            for batch in latents.movedim(-1, 1).to(self.device).split(64):
                codes = codec.quantize(batch)
                deviations += (batch - codec.embed(codes)).square().sum().cpu()
                if part == "train":
                    usage.update(codes.cpu())
            self.log(f"{part}/error_db", DECIBELS * (deviations / latents.numel()).sqrt(), prog_bar=True)
        self.log("codebook/perplexity", usage.compute()["perplexity"])
        if not is_dry_run(self.trainer):
            codec.save_pretrained(Path(self.trainer.default_root_dir) / FOLDER)
