"""Stage 3: estimate the likelihood by counting triples of two source codes and a mixture code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor
from torchmetrics import MeanMetric

from lass.artifacts import fingerprint
from lass.codecs import VQGAN, LatentCodec, codebook_of, load_codec
from lass.data.mixing import mix
from lass.data.module import check_sample_rate, weights_of
from lass.data.sources import Sources, SourceTuples
from lass.errors import LassError
from lass.likelihood import LatentMoments, SparseCounts
from lass.likelihood.ranks import of_all_ranks
from lass.report.media import log_values
from lass.report.wandb_callback import WandbCallback
from lass.tasks.checkpoints import CHECKPOINT_FOLDER, RunCheckpoint
from lass.tasks.trainer import datamodule_of, is_dry_run
from lass.tasks.training import check_same_codec

COUNTS_FILE, LATENTS_FILE = "counts.safetensors", "latents.safetensors"


class CheckpointEachEpoch(RunCheckpoint):
    """Saves `last.ckpt` after every epoch."""

    def __init__(self, dirpath: str | Path) -> None:
        super().__init__(dirpath, [COUNTS_FILE, LATENTS_FILE])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `last.ckpt`."""
        self.save(trainer)


class LikelihoodCounting(LightningModule):
    """Counts triples of codes from pairs of sources, and saves the counts after every epoch.

    The counts are SparseCounts in `<default_root_dir>/counts.safetensors`; with `latents`, LatentMoments are also
    accumulated and saved to `latents.safetensors`. No optimizer is used: an epoch of `fit` is one pass over newly
    drawn pairs, so more epochs count more pairs.

    Args:
        codec: Folder of the codec.
        latents: Whether to accumulate the moments of the mixture's latents for each pair of source codes, for a
            LatentLikelihood.
        symmetric: Whether to count both orders of a pair; false if the sources are of different kinds or have different
            weights in the mixture.
        min_coverage_gain: Stop when `val/coverage`, the fraction of held-out triples that were counted before, rises by
            less than this from one validation to the next; null counts to the last epoch.

    Raises:
        LassError: if `latents` is true and the codec has no suitable latents; in `fit`, if `symmetric` is true and the
            mixing weights of the data differ, or if mixtures have more than two sources.

    Source: LASS (arXiv:2301.08562), section "Discrete Likelihoods for Source Separation", Table 1.
    """

    def __init__(
        self, codec: str, latents: bool = False, symmetric: bool = True, min_coverage_gain: float | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.min_coverage_gain = min_coverage_gain
        self.codec_folder = codec
        self.codec = cast(Any, load_codec(codec))  # an Artifact that implements Codec
        self.codec.requires_grad_(False)
        self.codec_fingerprint = fingerprint(self.codec)  # before the trainer's precision converts it
        self.latents, self.symmetric = latents, symmetric
        self.weights: list[float] | None = None  # of the data module
        if latents and (not isinstance(self.codec, LatentCodec) or codebook_of(self.codec) is None):
            raise LassError(
                f"A {type(self.codec).__name__} gives no latents of a signal: set --model.latents=false to count codes."
            )
        if latents and isinstance(self.codec, VQGAN) and self.codec.projected:
            raise LassError(
                "The latents of this codec do not lie near the vectors of their codes: set --model.latents=false to "
                "count codes."
            )
        # Merged counts of all ranks, and the counts of this rank since the last merge.
        self.counts, self._fresh_counts = self._no_counts(), self._no_counts()
        self.moments, self._fresh_moments = self._no_moments(), self._no_moments()
        # Distributed strategies require at least one parameter with a gradient.
        self.nothing_to_train = torch.nn.Parameter(torch.zeros(()))
        self.coverage, self.full_coverage, self.log_likelihood = MeanMetric(), MeanMetric(), MeanMetric()

    def setup(self, stage: str) -> None:
        """Check that the data has the codec's sample rate, and mixing weights that suit `symmetric`."""
        data = datamodule_of(self.trainer)
        check_sample_rate(data, self.codec)
        self.weights = weights_of(data)
        if self.symmetric and self.weights is not None and len(set(self.weights)) > 1:
            raise LassError(
                "Counting both orders of a pair needs equal mixing weights, but the data's are "
                f"{', '.join(f'{weight:g}' for weight in self.weights)}: set --model.symmetric=false."
            )

    def configure_optimizers(self) -> None:
        """Return no optimizer, because counting has no gradient."""

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for W&B, for a checkpoint after each epoch (except in a dry run), and for stopping."""
        folder = Path(self.trainer.default_root_dir)
        files = (COUNTS_FILE, LATENTS_FILE) if self.latents else (COUNTS_FILE,)
        page = WandbCallback(
            {"val/coverage": "max", "val/mixtures_fully_covered": "max"},
            codec_fingerprint=self.codec_fingerprint,
            used=[("codec", self.codec_folder)],
            made=[("likelihood", folder / name) for name in files],
        )
        callbacks: list[Callback] = [page]
        if not is_dry_run(self.trainer):
            callbacks.append(CheckpointEachEpoch(folder / CHECKPOINT_FOLDER))
        if self.min_coverage_gain is not None:
            gain = EarlyStopping("val/coverage", self.min_coverage_gain, 1, mode="max", check_on_train_epoch_end=False)
            gain.verbose = True
            callbacks.append(gain)
        return callbacks

    def on_fit_start(self) -> None:
        """Move the counts to the device of the codec."""
        self.counts, self._fresh_counts = self.counts.to(self.device), self._no_counts()
        if self.moments is not None:
            self.moments, self._fresh_moments = self.moments.to(self.device), self._no_moments()

    def training_step(self, batch: SourceTuples | Sources) -> None:
        """Encode both sources and their mixture, and count the triple of codes at every position."""
        if not len(batch.signals):  # this rank has no pairs left
            return
        first, second, mixture = self._encode(batch)
        self._fresh_counts.add(first, second, mixture)
        if self._fresh_moments is not None:
            latents = self.codec.encode_latents(mix(batch.signals, self.weights))
            self._fresh_moments.add(first.flatten(), second.flatten(), latents.movedim(1, -1).flatten(0, -2))

    def on_validation_epoch_start(self) -> None:
        """Merge the counts of all ranks and make the likelihood for the validation."""
        self._merge_fresh_counts()
        self._likelihood = self.counts.likelihood() if self.counts.num_triples else None

    def validation_step(self, batch: SourceTuples | Sources) -> None:
        """Compute the fraction of held-out triples that were counted before, and the mean log likelihood of these."""
        if self._likelihood is None or not len(batch.signals):  # nothing is counted yet, or the rank has no pairs left
            return
        triples = self._encode(batch)
        seen = self._likelihood.contains(*triples).flatten(1)
        log_likelihood = self._likelihood.log_likelihood(*triples).flatten(1)
        self.coverage.update(seen.float())
        self.full_coverage.update(seen.all(1).float())
        self.log_likelihood.update(log_likelihood[seen])

    def on_validation_epoch_end(self) -> None:
        """Log the coverage, which shows whether more epochs would still help, and the log likelihood per code."""
        if self._likelihood is None:
            return
        scores = {
            "val/coverage": self.coverage,
            "val/mixtures_fully_covered": self.full_coverage,
            "val/log_likelihood_per_code": self.log_likelihood,
        }
        self.log_dict({name: metric.compute() for name, metric in scores.items()}, prog_bar=True)
        for metric in scores.values():
            metric.reset()

    def on_train_epoch_end(self) -> None:
        """Save the counts, and log the statistics in Table 1 of the paper."""
        self._merge_fresh_counts()
        if self.trainer.is_global_zero and not is_dry_run(self.trainer):
            self.counts.save(Path(self.trainer.default_root_dir) / COUNTS_FILE)
            if self.moments is not None:
                self.moments.save(Path(self.trainer.default_root_dir) / LATENTS_FILE)
        facts = {
            "density_percent": 100 * self.counts.density,
            "num_nonzero": self.counts.num_nonzero,
            "num_pairs_seen": self.counts.num_pairs_seen,
            "num_triples": self.counts.num_triples,
        }
        self.log_dict({f"likelihood/{name}": float(value) for name, value in facts.items()})
        if self.trainer.is_global_zero:
            log_values(self.trainer, "likelihood/nonzeros_per_mixture_code", self.counts.nonzeros_per_mixture_code)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the merged counts to the checkpoint. Called on all ranks, as merging is a collective operation."""
        self._merge_fresh_counts()
        checkpoint["counts"], checkpoint["symmetric"] = self.counts.state_dict(), self.symmetric
        checkpoint["moments"] = None if self.moments is None else self.moments.state_dict()
        checkpoint["codec_fingerprint"] = self.codec_fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counts.

        Raises:
            LassError: if they belong to another codec, or were counted with other settings.
        """
        check_same_codec(checkpoint, self.codec_fingerprint)
        for name, then in {
            "symmetric": checkpoint["symmetric"],
            "latents": checkpoint.get("moments") is not None,
        }.items():
            if then != (now := getattr(self, name)):
                raise LassError(
                    f"The checkpoint was counted with {name}={then}, but this run has {now}: start without "
                    f"--ckpt_path, or set --model.{name}={str(then).lower()}."
                )
        self.counts = self._no_counts().load_state_dict(checkpoint["counts"])
        if self.moments is not None:
            self.moments.load_state_dict(checkpoint["moments"])

    def _encode(self, batch: SourceTuples | Sources) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(batch, SourceTuples):
            raise LassError("Counting needs tuples of sources, but the data gives single ones: set --data.tuples=true.")
        if (num_sources := batch.signals.shape[1]) != 2:
            raise LassError(
                f"Counting is for mixtures of two sources, but the data gives {num_sources}: set --data.num_sources=2, "
                "or for audio two --data.classes."
            )
        first, second = batch.signals.unbind(1)
        mixture = mix(batch.signals, self.weights)
        return self.codec.encode(torch.cat([first, second, mixture])).chunk(3)

    def _no_counts(self) -> SparseCounts:
        return SparseCounts(self.codec.num_codes, self.symmetric, self.device, codec_fingerprint=self.codec_fingerprint)

    def _no_moments(self) -> LatentMoments | None:
        codebook = codebook_of(self.codec) if self.latents else None
        if codebook is None:
            return None
        num_codes, dim = codebook.shape
        return LatentMoments(num_codes, dim, self.symmetric, self.device, self.codec_fingerprint)

    def _merge_fresh_counts(self) -> None:
        for counts in of_all_ranks(self._fresh_counts):
            self.counts.merge(counts)
        self._fresh_counts = self._no_counts()
        if self.moments is not None and self._fresh_moments is not None:
            if dist.is_available() and dist.is_initialized():
                for sums in self._fresh_moments.state_dict().values():
                    dist.all_reduce(sums)
            self.moments.merge(self._fresh_moments)
            self._fresh_moments = self._no_moments()
