"""Stage 1: train a VQ-VAE on single sources and on mixtures of sources."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lass.artifacts import Artifact
from lass.data.mixing import mix_neighbours
from lass.data.module import MAX_SOURCES, check_sample_rate, weights_of
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

    Mixtures have the mixing weights of the data module; see `partial_weights` for mixtures of fewer sources.

    Args:
        codec: VQ-VAE whose forward pass returns a VQVAEOutput.
        mixture_share: Fraction of each training batch that is replaced by mixtures of random sources, because
            Algorithm 1 also encodes mixtures.
        commitment: Weight of the commitment loss.
        linearity: Weight of a penalty on the squared difference between the latents of a mixture and the mixture of
            its sources' latents, relative to the variance of the latents. The smaller the difference, the more a
            mixture code determines the codes of its sources.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of batches of linear warm-up.
        linearity_sources: Largest number of sources in a training mixture, also without `linearity`. Each batch draws
            the number uniformly from 2 to this maximum; validation mixtures have the maximum. To separate S sources,
            set it to S: the likelihood also encodes mixtures of 2 to S - 1 sources.

    Raises:
        LassError: if `linearity` is above 0 and `mixture_share` is 0, if a number is outside its range, or in `fit` if
            the data module has weights of fewer than `linearity_sources` sources.

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
        linearity_sources: int = 2,
    ) -> None:
        check_number("mixture_share", mixture_share, at_least=0, at_most=1)
        check_number("commitment", commitment, at_least=0)
        check_number("linearity", linearity, at_least=0)
        check_number("linearity_sources", linearity_sources, at_least=2, at_most=MAX_SOURCES, whole=True)
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
        self.linearity_sources = linearity_sources
        self.weights: list[float] | None = None  # of the data module
        self.usage = CodeUsage(self.artifact.num_codes)

    def setup(self, stage: str) -> None:
        """Check that the data has the codec's sample rate, and weights for all sources of a mixture."""
        data = datamodule_of(self.trainer)
        check_sample_rate(data, self.artifact)
        self.weights = weights_of(data)
        if self.weights is not None and self.linearity_sources > len(self.weights):
            raise LassError(
                f"The data has weights of {len(self.weights)} sources, but linearity_sources is "
                f"{self.linearity_sources}: make it smaller, or set more num_sources and weights."
            )

    def training_step(self, batch: Sources) -> Tensor:
        """Compute the loss: reconstruction error plus weighted commitment and linearity terms."""
        signals = batch.signals
        num_mixtures = int(len(signals) * self.mixture_share)
        # Python's generator, so that the random numbers of torch do not depend on `linearity_sources`.
        num_sources = random.randint(2, self.linearity_sources)
        mixtures = mix_neighbours(signals, num_sources, self.weights)  # of random sources, as the batch is shuffled
        signals = torch.cat([mixtures[:num_mixtures], signals[num_mixtures:]])
        output = self.artifact(signals)
        losses = self.scoring.losses(*map(at_least_float32, (output.reconstruction, signals)))
        loss = sum(losses.values()) + self.commitment * output.commitment_loss
        terms = {f"train/{name}": value for name, value in losses.items()}
        terms["train/commitment"] = output.commitment_loss
        if self.linearity and num_mixtures:  # num_mixtures can be 0 in the last batch
            latents = at_least_float32(self.artifact.encode_latents(batch.signals))
            mixed = mix_neighbours(latents, num_sources, self.weights)[:num_mixtures]
            deviation = F.mse_loss(at_least_float32(output.latents[:num_mixtures]), mixed)
            deviation = deviation / latents.transpose(0, 1).flatten(1).var(1).mean()
            terms["train/nonlinearity"] = deviation
            loss = loss + self.linearity * deviation
        self.log_dict({"train/loss": loss, **terms})
        return loss

    def validation_step(self, batch: Sources, batch_index: int) -> None:
        """Log the reconstruction scores of sources and of mixtures, and their mean, e.g. `val/psnr_db`."""
        sources = batch.signals
        mixtures = mix_neighbours(sources, self.linearity_sources, self.weights)
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
        for name, value in logged.items():
            self.log(name, value, batch_size=len(sources), prog_bar=name == self.monitor, sync_dist=True)
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
