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
from lass.codecs import VQGAN, LatentCodec, PowerCodec, codebook_of, load_codec
from lass.data.mixing import mix, partial_weights
from lass.data.module import MAX_SOURCES, SourceDataModule, check_sample_rate, weights_of
from lass.data.sources import Sources, SourceTuples
from lass.errors import LassError
from lass.likelihood import AdditiveMoments, LatentMoments, LogSumMoments, SparseCounts
from lass.likelihood.ranks import of_all_ranks
from lass.report.media import log_values
from lass.report.wandb_callback import WandbCallback
from lass.tasks.checkpoints import CHECKPOINT_FOLDER, RunCheckpoint
from lass.tasks.trainer import datamodule_of, is_dry_run
from lass.tasks.training import check_same_codec

COUNTS_FILE, LATENTS_FILE, ADDITIVE_FILE = "counts.safetensors", "latents.safetensors", "additive.safetensors"
LOG_SUM_FILE = "log_sum.safetensors"
#: Files by the option that asks for them
OPTIONAL_FILES = {"latents": LATENTS_FILE, "additive": ADDITIVE_FILE, "log_sum": LOG_SUM_FILE}

#: Whatever is accumulated and saved in one file.
Statistics = SparseCounts | LatentMoments | AdditiveMoments | LogSumMoments


def table_files(num_sources: int) -> list[str]:
    """Names of the files of counts of the mixtures of the first 2 … `num_sources` sources."""
    return [COUNTS_FILE, *(f"counts_{s}.safetensors" for s in range(3, num_sources + 1))]


class CheckpointEachEpoch(RunCheckpoint):
    """Saves `last.ckpt` after every epoch."""

    def __init__(self, dirpath: str | Path) -> None:
        super().__init__(dirpath, [*table_files(MAX_SOURCES), *OPTIONAL_FILES.values()])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `last.ckpt`."""
        self.save(trainer)


class LikelihoodCounting(LightningModule):
    """Counts triples of codes from tuples of sources, and saves the counts after every epoch.

    The counts are SparseCounts in `<default_root_dir>/counts.safetensors`, of the codes of two sources and of their
    mixture. With S > 2 sources, `counts_3.safetensors` to `counts_S.safetensors` hold the triples of the code of the
    mixture of the first s − 1 sources, the code of source s, and the code of the mixture of the first s sources. No
    optimizer is used: an epoch of `fit` is one pass over newly drawn tuples, so more epochs count more of them.

    Args:
        codec: Folder of the codec.
        latents: Whether to accumulate the moments of the mixture's latents for each pair of source codes, for a
            LatentLikelihood of two sources, in `latents.safetensors`.
        additive: Whether to accumulate the statistics of an AdditiveLikelihood, which serves any number of sources, in
            `additive.safetensors`.
        log_sum: Whether to accumulate the statistics of a LogSumLikelihood of two sources, for a codec of log powers,
            in `log_sum.safetensors`.
        symmetric: Whether to count both orders of a pair; false if the sources are of different kinds or have different
            weights in the mixture.
        min_coverage_gain: Stop when `val/coverage`, the fraction of held-out triples that were counted before, rises by
            less than this from one validation to the next; null counts to the last epoch.

    Raises:
        LassError: if `latents`, `additive` or `log_sum` is true and the codec has no suitable latents; in `fit`, if
            `symmetric` is true and the mixing weights of the data differ, or if `latents` or `log_sum` is true and
            mixtures have more than two sources.

    Source: LASS (arXiv:2301.08562), section "Discrete Likelihoods for Source Separation", Table 1.
    """

    def __init__(
        self,
        codec: str,
        latents: bool = False,
        symmetric: bool = True,
        min_coverage_gain: float | None = None,
        additive: bool = False,
        log_sum: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.min_coverage_gain = min_coverage_gain
        self.codec_folder = codec
        self.codec = cast(Any, load_codec(codec))  # an Artifact that implements Codec
        self.codec.requires_grad_(False)
        self.codec_fingerprint = fingerprint(self.codec)  # before the trainer's precision converts it
        self.latents, self.additive, self.log_sum, self.symmetric = latents, additive, log_sum, symmetric
        self.weights: list[float] | None = None  # of the data module
        self.num_sources = 2  # of the data module
        for name in ("latents", "additive"):
            if getattr(self, name):
                self._check_latents(name)
        if log_sum and not isinstance(self.codec, PowerCodec):
            raise LassError(
                f"The latents of a {type(self.codec).__name__} are no log powers: set --model.log_sum=false, or use a "
                "SpectrogramCodec."
            )
        # Distributed strategies require at least one parameter with a gradient.
        self.nothing_to_train = torch.nn.Parameter(torch.zeros(()))
        self.coverage, self.full_coverage, self.log_likelihood = MeanMetric(), MeanMetric(), MeanMetric()
        self._start()

    def _check_latents(self, name: str) -> None:
        if not isinstance(self.codec, LatentCodec) or codebook_of(self.codec) is None:
            raise LassError(
                f"A {type(self.codec).__name__} gives no latents of a signal: set --model.{name}=false to count codes."
            )
        if isinstance(self.codec, VQGAN) and self.codec.projected:
            raise LassError(
                f"The latents of this codec do not lie near the vectors of their codes: set --model.{name}=false to "
                "count codes."
            )

    def _start(self) -> None:
        """Empty statistics by file name: merged over all ranks, and those of this rank since the last merge."""
        self.merged, self._fresh = self._nothing(), self._nothing()

    def _nothing(self) -> dict[str, Statistics]:
        num_codes, device, made_for = self.codec.num_codes, self.device, self.codec_fingerprint
        nothing: dict[str, Statistics] = {}
        for name in self.tables:
            nothing[name] = SparseCounts(
                num_codes, self.symmetric and name == COUNTS_FILE, device, codec_fingerprint=made_for
            )
        codebook = codebook_of(self.codec) if self.latents or self.additive else None
        if codebook is not None and self.latents:
            nothing[LATENTS_FILE] = LatentMoments(num_codes, codebook.shape[1], self.symmetric, device, made_for)
        if codebook is not None and self.additive:
            nothing[ADDITIVE_FILE] = AdditiveMoments(num_codes, codebook.shape[1], device, made_for)
        if self.log_sum:
            weights = self.weights or [0.5, 0.5]
            dim = self.codec.codebook.shape[1]
            nothing[LOG_SUM_FILE] = LogSumMoments(
                num_codes, dim, self.codec.block, self.codec.floor, weights, device, made_for
            )
        return nothing

    @property
    def tables(self) -> list[str]:
        """Files of the counted tables, for the mixtures of the first 2 … S sources."""
        return table_files(self.num_sources)

    @property
    def counts(self) -> SparseCounts:
        """Counts of two sources and their mixture."""
        return cast(SparseCounts, self.merged[COUNTS_FILE])

    def setup(self, stage: str) -> None:
        """Check that the data has the codec's sample rate, and sources and mixing weights that suit the settings."""
        data = datamodule_of(self.trainer)
        check_sample_rate(data, self.codec)
        self.weights = weights_of(data)
        if self.symmetric and self.weights is not None and len(set(self.weights)) > 1:
            raise LassError(
                "Counting both orders of a pair needs equal mixing weights, but the data's are "
                f"{', '.join(f'{weight:g}' for weight in self.weights)}: set --model.symmetric=false."
            )
        if isinstance(data, SourceDataModule) and data.num_sources != self.num_sources:
            self.num_sources = data.num_sources
            for option in ("latents", "log_sum"):
                if getattr(self, option):
                    raise LassError(
                        f"The statistics of {option} are for two sources, but the data mixes {self.num_sources}: set "
                        f"--model.{option}=false and --model.additive=true."
                    )
        self._start()

    def configure_optimizers(self) -> None:
        """Return no optimizer, because counting has no gradient."""

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for W&B, for a checkpoint after each epoch (except in a dry run), and for stopping."""
        folder, data = Path(self.trainer.default_root_dir), datamodule_of(self.trainer)
        files = table_files(data.num_sources if isinstance(data, SourceDataModule) else 2)
        files += [name for name in OPTIONAL_FILES.values() if name in self.merged]
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
        """Move the statistics to the device of the codec."""
        self.merged = {name: statistics.to(self.device) for name, statistics in self.merged.items()}
        self._fresh = self._nothing()

    def training_step(self, batch: SourceTuples | Sources) -> None:
        """Encode the sources and their partial mixtures, and count the triples of codes at every position."""
        if not len(batch.signals):  # this rank has no tuples left
            return
        codes, triples = self._encode(batch)
        for name, triple in zip(self.tables, triples, strict=True):
            cast(SparseCounts, self._fresh[name]).add(*triple)
        if not (self.latents or self.additive or self.log_sum):
            return
        mixture_latents = _by_position(self.codec.encode_latents(mix(batch.signals, self.weights)))
        first, second = codes[:2]
        for statistics in self._fresh.values():
            if isinstance(statistics, LogSumMoments):
                vectors = torch.stack([_by_position(self.codec.embed(own)) for own in codes], 1)
                statistics.add(triples[0][2].flatten(), vectors, mixture_latents)
            elif isinstance(statistics, LatentMoments):
                statistics.add(first.flatten(), second.flatten(), mixture_latents)
            elif isinstance(statistics, AdditiveMoments):
                latents = [self.codec.encode_latents(signals) for signals in batch.signals.unbind(1)]
                errors = [x - self.codec.embed(own) for x, own in zip(latents, codes, strict=True)]
                statistics.add(
                    torch.stack([own.flatten() for own in codes], 1),
                    torch.stack([_by_position(x) for x in errors], 1),
                    torch.stack([_by_position(x) for x in latents], 1),
                    mixture_latents,
                    self.weights,
                )

    def on_validation_epoch_start(self) -> None:
        """Merge the statistics of all ranks and make the likelihoods for the validation."""
        self._merge()
        counts = [cast(SparseCounts, self.merged[name]) for name in self.tables]
        self._likelihoods = [table.likelihood() for table in counts] if self.counts.num_triples else []

    def validation_step(self, batch: SourceTuples | Sources) -> None:
        """Compute the fraction of held-out triples that were counted before, and the mean log likelihood of these."""
        if not self._likelihoods or not len(batch.signals):  # nothing is counted yet, or the rank has no tuples left
            return
        _, triples = self._encode(batch)
        seen = [likelihood.contains(*triple) for likelihood, triple in zip(self._likelihoods, triples, strict=True)]
        every = torch.stack([x.flatten(1) for x in seen])
        self.coverage.update(every.float())
        self.full_coverage.update(every.all(0).all(1).float())
        for likelihood, triple, found in zip(self._likelihoods, triples, seen, strict=True):
            self.log_likelihood.update(likelihood.log_likelihood(*triple)[found])

    def on_validation_epoch_end(self) -> None:
        """Log the coverage, which shows whether more epochs would still help, and the log likelihood per code."""
        if not self._likelihoods:
            return
        scores = {
            "val/coverage": self.coverage,
            "val/mixtures_fully_covered": self.full_coverage,
            "val/log_likelihood_per_code": self.log_likelihood,
        }
        for name, metric in scores.items():
            self.log(name, metric.compute(), prog_bar=name == "val/coverage")
            metric.reset()

    def on_train_epoch_end(self) -> None:
        """Save the statistics, and log those in Table 1 of the paper."""
        self._merge()
        if self.trainer.is_global_zero and not is_dry_run(self.trainer):
            for name, statistics in self.merged.items():
                statistics.save(Path(self.trainer.default_root_dir) / name)
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
        """Add the merged statistics to the checkpoint. Called on all ranks, as merging is a collective operation."""
        self._merge()
        checkpoint["statistics"] = {name: statistics.state_dict() for name, statistics in self.merged.items()}
        checkpoint["symmetric"], checkpoint["num_sources"] = self.symmetric, self.num_sources
        checkpoint["codec_fingerprint"] = self.codec_fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the statistics.

        Raises:
            LassError: if they belong to another codec, or were counted with other settings.
        """
        check_same_codec(checkpoint, self.codec_fingerprint)
        if "statistics" not in checkpoint:
            raise LassError("The checkpoint was written by an earlier version of lass: count without --ckpt_path.")
        statistics = checkpoint["statistics"]
        for name, then in {
            "model.symmetric": checkpoint["symmetric"],
            **{f"model.{option}": file in statistics for option, file in OPTIONAL_FILES.items()},
            "data.num_sources": checkpoint["num_sources"],
        }.items():
            if then != (now := getattr(self, name.partition(".")[2])):
                raise LassError(
                    f"The checkpoint was counted with {name}={then}, but this run has {now}: start without "
                    f"--ckpt_path, or set --{name}={str(then).lower()}."
                )
        self._start()
        for name, state in statistics.items():
            self.merged[name].load_state_dict(state)

    def _encode(self, batch: SourceTuples | Sources) -> tuple[list[Tensor], list[tuple[Tensor, Tensor, Tensor]]]:
        """Return the codes of every source, and the triple of codes of every table."""
        if not isinstance(batch, SourceTuples):
            raise LassError("Counting needs tuples of sources, but the data gives single ones: set --data.tuples=true.")
        sources, num_sources = list(batch.signals.unbind(1)), batch.signals.shape[1]
        partial = [
            mix(batch.signals[:, :s], partial_weights(self.weights, s)) for s in range(2, num_sources + 1)
        ]  # of the first s sources
        codes = self.codec.encode(torch.cat([*sources, *partial])).chunk(2 * num_sources - 1)
        own, mixed = list(codes[:num_sources]), [codes[0], *codes[num_sources:]]
        return own, list(zip(mixed[:-1], own[1:], mixed[1:], strict=True))

    def _merge(self) -> None:
        """Add the fresh statistics of all ranks to the merged ones."""
        for name, fresh in self._fresh.items():
            merged: Any = self.merged[name]
            if isinstance(fresh, SparseCounts):
                for counts in of_all_ranks(fresh):
                    merged.merge(counts)
            else:
                if dist.is_available() and dist.is_initialized():
                    for sums in fresh.state_dict().values():
                        dist.all_reduce(sums)
                merged.merge(fresh)
        self._fresh = self._nothing()


def _by_position(latents: Tensor) -> Tensor:
    """(batch, dim, *grid) to (batch · positions, dim)."""
    return latents.movedim(1, -1).flatten(0, -2)
