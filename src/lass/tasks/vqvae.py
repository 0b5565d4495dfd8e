"""Stage 1: train a VQ-VAE on single sources and, so that it can encode them, on mixtures of two."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lass.artifacts import Artifact
from lass.data.mixing import mix
from lass.data.sources import Sources
from lass.errors import LassError
from lass.metrics import CodeUsage, psnr
from lass.report.media import log_histogram, log_images
from lass.tasks.training import TrainingTask

NUM_IMAGES = 12  # in a logged grid


class VQVAETraining(TrainingTask):
    """Trains a codec and leaves it in `<default_root_dir>/codec`.

    Args:
        codec: a VQ-VAE whose forward pass gives a VQVAEOutput.
        mixture_share: the part of each training batch that is replaced by mixtures of random pairs, because
            Algorithm 1 encodes mixtures too.
        commitment: weight of the commitment loss.
        linearity: weight of what makes the latents of a mixture the mean of its sources' latents: the squared
            difference, relative to the variance of the latents. The closer they are, the more a mixture's code tells
            about those of its sources.
        learning_rate: peak, for AdamW.
        warmup_steps: batches until the peak.

    Raises:
        LassError: for linearity without mixtures.

    Source: LASS (arXiv:2301.08562), section "VQ-VAE"; loss: van den Oord et al. 2017, Eq. 3, with the codebook term
    replaced by moving averages.
    """

    goals: ClassVar = {"val/psnr_sources_db": "max", "val/psnr_mixtures_db": "max", "codebook/perplexity": "max"}

    def __init__(
        self,
        codec: Artifact,
        mixture_share: float = 0.5,
        commitment: float = 0.25,
        linearity: float = 0.0,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(codec, "val/psnr_db", "max", learning_rate, warmup_steps)
        if linearity and not mixture_share:
            raise LassError("linearity compares mixtures with their sources: it needs a mixture_share above 0.")
        self.mixture_share, self.commitment, self.linearity = mixture_share, commitment, linearity
        self.usage = CodeUsage(codec.num_codes)

    def training_step(self, batch: Sources) -> Tensor:
        """Squared error plus commitment and linearity, on sources and mixtures."""
        signals = batch.signals
        num_mixtures = int(len(signals) * self.mixture_share)
        partners = signals.roll(1, dims=0)[:num_mixtures]  # a shuffled batch: the neighbour is a random partner
        signals = torch.cat([mix(torch.stack([signals[:num_mixtures], partners], 1)), signals[num_mixtures:]])
        output = self.artifact(signals)
        error = F.mse_loss(output.reconstruction, signals)
        loss = error + self.commitment * output.commitment_loss
        terms = {"train/mse": error, "train/commitment": output.commitment_loss}
        if self.linearity and num_mixtures:  # the last batch of an epoch may be a single source
            latents = self.artifact.encode_latents(batch.signals)
            mean = mix(torch.stack([latents, latents.roll(1, dims=0)], 1))[:num_mixtures]
            deviation = F.mse_loss(output.latents[:num_mixtures], mean) / latents.var(dim=(0, 2, 3)).mean()
            terms["train/nonlinearity"] = deviation
            loss = loss + self.linearity * deviation
        self.log_dict({"train/loss": loss, **terms})
        return loss

    def validation_step(self, batch: Sources, batch_index: int) -> None:
        """Reconstruction of sources and of mixtures; `val/psnr_db` is the mean of both."""
        sources = batch.signals
        mixtures = mix(torch.stack([sources, sources.roll(1, dims=0)], 1))
        rebuilt, scores = {}, {}
        for name, signals in {"sources": sources, "mixtures": mixtures}.items():
            codes = self.artifact.encode(signals)
            rebuilt[name] = self.artifact.decode(codes)
            scores[f"val/psnr_{name}_db"] = psnr(rebuilt[name], signals).mean()
            self.usage.update(codes)
        scores["val/psnr_db"] = torch.stack(list(scores.values())).mean()
        self.log_dict(scores, batch_size=len(sources), prog_bar=True, sync_dist=True)
        if batch_index == 0 and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            columns = {
                "source": sources,
                "reconstruction": rebuilt["sources"],
                "mixture": mixtures,
                "its reconstruction": rebuilt["mixtures"],
            }
            columns = {name: x[:NUM_IMAGES] for name, x in columns.items()}
            of_sources = psnr(columns["reconstruction"], columns["source"]).tolist()
            of_mixtures = psnr(columns["its reconstruction"], columns["mixture"]).tolist()
            captions = [f"{a:.1f} and {b:.1f} dB" for a, b in zip(of_sources, of_mixtures, strict=True)]
            log_images(self.trainer, "val/reconstructions", columns, captions)

    def on_validation_epoch_end(self) -> None:
        """Perplexity and use of the codebook over sources and mixtures together."""
        usage = self.usage.compute()
        self.usage.reset()
        if self.trainer.sanity_checking:
            return
        counts = usage.pop("counts")
        self.log_dict({f"codebook/{name}": value for name, value in usage.items()})
        if self.trainer.is_global_zero:
            log_histogram(self.trainer, "codebook/use_of_codes", counts, torch.arange(len(counts) + 1))
