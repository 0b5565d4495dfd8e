"""Stage 1: train a VQ-VAE on single sources and on mixtures of two sources."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lass.artifacts import Artifact
from lass.data.mixing import mix
from lass.data.module import check_sample_rate
from lass.data.sources import Sources
from lass.errors import LassError, check_number
from lass.metrics import CodeUsage, scoring_of
from lass.report.display import display_of
from lass.report.media import log_histogram
from lass.tasks.trainer import datamodule_of
from lass.tasks.training import TrainingTask, at_least_float32

KINDS = ("_sources", "_mixtures")  # kinds of reconstructed signals, as parts of the names of scores


class VQVAETraining(TrainingTask):
    """Trains a codec and saves it to `<default_root_dir>/codec`.

    Args:
        codec: VQ-VAE whose forward pass returns a VQVAEOutput.
        mixture_share: Fraction of each training batch that is replaced by mixtures of random pairs, because
            Algorithm 1 also encodes mixtures.
        commitment: Weight of the commitment loss.
        linearity: Weight of a penalty on the squared difference between the latents of a mixture and the mean of its
            sources' latents, relative to the variance of the latents. The smaller the difference, the more a mixture
            code determines the codes of its sources.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of batches of linear warm-up.

    Raises:
        LassError: if `linearity` is above 0 and `mixture_share` is 0, or if a number is outside its range.

    Source: LASS (arXiv:2301.08562), section "VQ-VAE"; loss: van den Oord et al. 2017, Eq. 3, with the codebook term
    replaced by moving averages.
    """

    artifact: Any  # an Artifact that implements LatentCodec, whose forward pass gives a VQVAEOutput

    def __init__(
        self,
        codec: Artifact,
        mixture_share: float = 0.5,
        commitment: float = 0.25,
        linearity: float = 0.0,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
    ) -> None:
        check_number("mixture_share", mixture_share, at_least=0, at_most=1)
        check_number("commitment", commitment, at_least=0)
        check_number("linearity", linearity, at_least=0)
        scoring = scoring_of(codec)
        (deciding, direction), *_ = scoring.reconstruction_goals.items()
        super().__init__(codec, f"val/{deciding.format('')}", direction, learning_rate, warmup_steps)
        if linearity and not mixture_share:
            raise LassError("linearity compares mixtures with their sources: it needs a mixture_share above 0.")
        self.scoring, self.display = scoring, display_of(codec)
        self.goals = {"codebook/perplexity": "max"}
        for score, direction in scoring.reconstruction_goals.items():
            self.goals |= {f"val/{score.format(kind)}": direction for kind in KINDS}
        self.mixture_share, self.commitment, self.linearity = mixture_share, commitment, linearity
        self.usage = CodeUsage(self.artifact.num_codes)

    def setup(self, stage: str) -> None:
        """Check that the data has the codec's sample rate."""
        check_sample_rate(datamodule_of(self.trainer), self.artifact)

    def training_step(self, batch: Sources) -> Tensor:
        """Compute the loss: reconstruction error plus weighted commitment and linearity terms."""
        signals = batch.signals
        num_mixtures = int(len(signals) * self.mixture_share)
        partners = signals.roll(1, dims=0)[:num_mixtures]  # the batch is shuffled, so the neighbour is a random partner
        signals = torch.cat([mix(torch.stack([signals[:num_mixtures], partners], 1)), signals[num_mixtures:]])
        output = self.artifact(signals)
        losses = self.scoring.losses(*map(at_least_float32, (output.reconstruction, signals)))
        loss = sum(losses.values()) + self.commitment * output.commitment_loss
        terms = {f"train/{name}": value for name, value in losses.items()}
        terms["train/commitment"] = output.commitment_loss
        if self.linearity and num_mixtures:  # num_mixtures can be 0 in the last batch
            latents = at_least_float32(self.artifact.encode_latents(batch.signals))
            mean = mix(torch.stack([latents, latents.roll(1, dims=0)], 1))[:num_mixtures]
            deviation = F.mse_loss(at_least_float32(output.latents[:num_mixtures]), mean)
            deviation = deviation / latents.transpose(0, 1).flatten(1).var(1).mean()
            terms["train/nonlinearity"] = deviation
            loss = loss + self.linearity * deviation
        self.log_dict({"train/loss": loss, **terms})
        return loss

    def validation_step(self, batch: Sources, batch_index: int) -> None:
        """Log the reconstruction scores of sources and of mixtures, and their mean, e.g. `val/psnr_db`."""
        sources = batch.signals
        mixtures = mix(torch.stack([sources, sources.roll(1, dims=0)], 1))
        rebuilt, scores = {}, {}
        for kind, signals in zip(KINDS, (sources, mixtures), strict=True):
            codes = self.artifact.encode(signals)
            rebuilt[kind] = at_least_float32(self.artifact.decode(codes)[..., : signals.shape[-1]])
            scores[kind] = self.scoring.score_reconstruction(rebuilt[kind], at_least_float32(signals))
            self.usage.update(codes)
        logged: dict[str, Tensor] = {}
        for score in self.scoring.reconstruction_goals:
            means = {kind: scores[kind][score].mean() for kind in KINDS}
            logged |= {f"val/{score.format(kind)}": mean for kind, mean in means.items()}
            logged[f"val/{score.format('')}"] = torch.stack(list(means.values())).mean()
        self.log_dict(logged, batch_size=len(sources), prog_bar=True, sync_dist=True)
        shown = batch_index == 0 and self.trainer.is_global_zero and not self.trainer.sanity_checking
        if shown and self.display is not None:
            columns = {
                "source": sources,
                "reconstruction": rebuilt["_sources"],
                "mixture": mixtures,
                "its reconstruction": rebuilt["_mixtures"],
            }
            columns = {name: at_least_float32(x[: self.display.num_examples]) for name, x in columns.items()}
            deciding = next(iter(self.scoring.reconstruction_goals))
            captions = [
                f"{a:.1f} and {b:.1f} dB"
                for a, b in zip(*(scores[kind][deciding].tolist() for kind in KINDS), strict=True)
            ]
            self.display.log(self.trainer, "val/reconstructions", columns, captions[: self.display.num_examples])

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity and usage of the codebook, over sources and mixtures together."""
        usage = self.usage.compute()
        self.usage.reset()
        if self.trainer.sanity_checking:
            return
        counts = usage.pop("counts")
        self.log_dict({f"codebook/{name}": value for name, value in usage.items()})
        if self.trainer.is_global_zero:
            log_histogram(self.trainer, "codebook/use_of_codes", counts, torch.arange(len(counts) + 1))
