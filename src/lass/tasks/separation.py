"""Stage 4: separate mixtures of known sources, and score the estimates."""

from __future__ import annotations

import zlib
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision, Precision
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch import Tensor, nn
from torchmetrics import CatMetric

from lass.artifacts import fingerprint
from lass.codecs import ImageCodec, codebook_of, load_codec
from lass.data.mixing import mix
from lass.data.module import SourceDataModule, check_sample_rate, weights_of
from lass.data.sources import SourceTuples
from lass.devices.precision import full_precision
from lass.errors import LassError, check_number
from lass.likelihood import SavableLikelihood, load_likelihoods
from lass.metrics import MeanAndDeviation, best_permutation, pairwise_scores, scoring_of
from lass.metrics.frechet import FrechetDistances
from lass.priors import load_prior
from lass.report.display import Display, ImageDisplay, display_of
from lass.report.results import ResultsFolder, Row
from lass.report.separation import report_separation
from lass.report.summary import describe_summary
from lass.report.wandb_callback import Direction, WandbCallback
from lass.samplers import Sampler
from lass.separation import Refinement, Selection, Separator
from lass.tasks.distances import SETS, make_distances
from lass.tasks.trainer import datamodule_of

#: Prefixes of the names of scores: of the estimates; of the baseline that uses the mixture as estimate of each source;
#: of the codec's reconstructions of the sources.
SCORED = ("", "average_", "codec_")


class Separation(LightningModule):
    """Separates the mixtures of a data module with `lass predict`, and writes a results folder to `default_root_dir`.

    A run that was stopped is resumed at the first mixture without results.

    Args:
        codec: Folder of the codec.
        priors: Folder of one prior for all sources, or a list with one folder per source.
        likelihood: File of counts, of moments, or of a likelihood. More than two sources need an additive one, or a
            list of the files of counts of 2, 3, … sources, see `ChainLikelihood`.
        smoothing: Pseudo-count of the likelihood, see `SparseCounts.likelihood`.
        sampler: Sampler of the codes; null for TopK(512, 32).
        selection: Rule that selects one candidate; null for ClosestToMixture.
        posterior_mean: Whether the refinement starts from the mean latents of all candidates instead of the latents of
            the selected one.
        refinement: Post-inference refinement; null for LatentDescent, NoRefinement for none.
        likelihood_weight: Weight λ of the likelihood in Algorithm 1.
        conditional: Whether class-conditional priors are given the classes of the sources (weakly supervised
            separation).
        seed: Seed of the sampler.
        memory_budget: Bytes for temporary tensors, see `separate_codes`.
        overwrite: Whether to replace results in the folder that were made with other settings.
        fid: Whether to compute the Fréchet inception distance between estimates and sources, for images. It needs
            Inception's weights and 2,049 images; if either is missing, the run prints a message and omits it.
        inception_weights: File with these weights; default in torch's download cache.
        features: Folder of ImageFeatures, for a Fréchet distance on these features, which is not an FID.
        source_names: Names of the sources, if each has its own prior; scores are then also given per source.
        num_sources: Number S of sources in a mixture, if one prior is for all of them; null for 2. Must be the data's.

    The mixing weights are those of the data module.

    Raises:
        LassError: if a file or folder is missing or damaged, if they do not belong together, or if the data mixes
            another number of sources.

    Source: LASS (arXiv:2301.08562), Algorithm 1; PSNR protocol of Table 2.
    """

    def __init__(
        self,
        codec: str,
        priors: str | list[str],
        likelihood: str | list[str],
        sampler: Sampler | None = None,
        selection: Selection | None = None,
        refinement: Refinement | None = None,
        likelihood_weight: float = 1.0,
        conditional: bool = False,
        seed: int = 0,
        overwrite: bool = False,
        smoothing: float = 0.0,
        memory_budget: int = 2**30,
        posterior_mean: bool = False,
        fid: bool = False,
        inception_weights: str | None = None,
        features: str | None = None,
        source_names: list[str] | None = None,
        num_sources: int | None = None,
    ) -> None:
        super().__init__()
        check_number("seed", seed, at_least=0, whole=True)
        if not priors:
            raise LassError("priors must name the folder of a prior, or one folder per source, not nothing.")
        tables = [likelihood] if isinstance(likelihood, str) else likelihood
        self.paths = [("codec", codec), *(("likelihood", table) for table in tables)]
        self.paths += [("features", features)] if features else []
        folders = [priors] if isinstance(priors, str) else priors
        loaded = {folder: load_prior(folder) for folder in folders}  # one folder named twice is one shared prior
        loaded_codec = load_codec(codec)
        self.separator = Separator(
            loaded_codec,
            [loaded[folder] for folder in folders],
            load_likelihoods(tables, smoothing, codebook_of(loaded_codec)),
            sampler,
            selection,
            refinement,
            likelihood_weight,
            memory_budget,
            posterior_mean,
            source_names,
            num_sources,
        )
        self.conditional, self.seed, self.overwrite = conditional, seed, overwrite
        self.scoring = scoring_of(loaded_codec)
        self.display: Display = display_of(loaded_codec) or ImageDisplay()
        names = [f"{kind}{score}" for score in self.scoring.separation_scores for kind in SCORED]
        if source_names:
            names += [of_source(score, name) for score in self.scoring.separation_scores for name in source_names]
        skip_undefined = self.scoring.may_be_undefined
        self.scores = nn.ModuleDict({name: MeanAndDeviation(skip_undefined) for name in names})
        self.done = CatMetric()  # indices of the mixtures, gathered from all devices
        self.entropies = CatMetric()  # (*grid) per mixture, gathered from all devices
        self.paths += [("prior", folder) for folder in loaded]
        if (fid or features) and not isinstance(loaded_codec, ImageCodec):
            raise LassError("Fréchet distances are for images, but this codec is not: set --model.fid=false.")
        self.distances = make_distances(fid, inception_weights, features)

    @property
    def source_names(self) -> list[str]:
        """Names of the sources, by default "1" to "S"."""
        return self.separator.source_names or [str(source + 1) for source in range(self.num_sources)]

    @property
    def num_sources(self) -> int:
        """Number S of sources in a mixture."""
        return len(self.separator.priors)

    def configure_callbacks(self) -> list[Callback]:
        """Return the W&B callback of the run."""
        goals: dict[str, Direction] = {f"separation/{name}/mean": "max" for name in self.scores}
        goals |= {f"separation/{kind}/{name}": "min" for kind in self.distances for name in SETS}
        return [WandbCallback(goals, fingerprint(cast(nn.Module, self.separator.codec)), used=self.paths)]

    def setup(self, stage: str) -> None:
        """Check the data's sample rate and number of sources, take over its mixing weights, and replace a true half or
        double precision by float32.

        Lightning would otherwise convert the weights before they are saved and fingerprinted, and the signals before
        they are scored.

        Raises:
            LassError: if the data has another sample rate or number of sources than the separator.
        """
        data = datamodule_of(self.trainer)
        check_sample_rate(data, self.separator.codec)
        if isinstance(data, SourceDataModule) and data.num_sources != self.num_sources:
            raise LassError(
                f"The data mixes {data.num_sources} sources, but the separator is for {self.num_sources}: set "
                f"--model.num_sources={data.num_sources}, or name one prior per source in --model.priors."
            )
        self.separator.mixing_weights = weights_of(data)
        if isinstance(self.trainer.precision_plugin, (DoublePrecision, HalfPrecision)):
            rank_zero_info(
                f"Separation computes in float32, not in {self.trainer.precision}: 16-mixed and bf16-mixed are for "
                "faster networks."
            )
            self.trainer.strategy.precision_plugin = Precision()

    def on_predict_start(self) -> None:
        """Start or resume the results folder, save the separator in it, and move the separator to the device."""
        self._drop_distances_without_enough_images()
        self.results = ResultsFolder(self.trainer.default_root_dir)
        likelihood = cast(SavableLikelihood, self.separator.likelihood)
        parts: dict[str, Any] = {"codec": self.separator.codec, "likelihood": likelihood.state_dict()}
        parts |= {f"prior_{source + 1}": prior for source, prior in enumerate(self.separator.priors)}
        known: dict[int, str] = {}  # a prior shared by several sources is hashed once, as it may be large
        for part in parts.values():
            known[id(part)] = known.get(id(part)) or fingerprint(part)
        fingerprints = {name: known[id(part)] for name, part in parts.items()}
        settings = {**self.separator.settings, "conditional": self.conditional, "seed": self.seed}
        settings |= {"source_names": self.separator.source_names} if self.separator.source_names else {}
        data = datamodule_of(self.trainer)
        settings["mixtures_of"] = data.predict_split if isinstance(data, SourceDataModule) else None
        if self.trainer.is_global_zero:
            self.results.start({**settings, **fingerprints}, self.overwrite)
            self.separator.save_pretrained(self.results.root / "separator")
        self.separator.to(self.device)  # after saving, which would copy everything back to the CPU
        self.trainer.strategy.barrier()

    def predict_step(self, batch: SourceTuples) -> list[int]:
        """Separate the mixtures of a batch that have no stored results, store them, and update the scores of all.

        Returns:
            The indices of the mixtures in the batch.

        Raises:
            LassError: if the folder holds results for other mixtures.
        """
        indices = batch.indices.tolist()
        missing = [i for i, index in enumerate(indices) if not self.results.has(index, self.scores)]
        for i, index in enumerate(indices):
            if i not in missing and self.results.read(index)[1]["checksum"] != checksum(batch.signals[i]):
                raise LassError(
                    f"{self.results.root} holds results for other mixtures: choose another folder with "
                    "--trainer.default_root_dir, or replace them with --model.overwrite=true."
                )
        if missing:
            self._separate(SourceTuples(*(field[missing] for field in batch)))
        stored, rows = zip(*(self.results.read(index) for index in indices), strict=True)
        for row in rows:
            for name, score in self._scores():
                score.update(torch.tensor(row[name], device=self.device))  # on the device, for the gathering over ranks
        self.entropies.update(torch.stack([tensors["entropy"] for tensors in stored]).to(self.device))
        self.done.update(batch.indices.float())
        if self.distances:
            self._compare_images(batch.signals, torch.stack([tensors["estimates"] for tensors in stored]))
        return indices

    def on_predict_epoch_end(self) -> None:
        """Compute the mean scores over all mixtures, and write and log the report."""
        summary = {
            name: {key: value.item() for key, value in score.compute().items()} for name, score in self._scores()
        }
        summary |= {kind: distance.compute() for kind, distance in self._distances()}
        done, entropies = self.done.compute().long().unique().tolist(), self.entropies.compute()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            sampler, names = type(self.separator.sampler).__name__, self.source_names
            weights = self.separator.mixing_weights
            report_separation(
                self.trainer, self.results, done, summary, entropies, self.display, sampler, names, weights
            )
        self._summary = summary

    def _scores(self) -> list[tuple[str, MeanAndDeviation]]:
        return [(name, cast(MeanAndDeviation, score)) for name, score in self.scores.items()]

    def _distances(self) -> list[tuple[str, FrechetDistances]]:
        return [(kind, cast(FrechetDistances, distance)) for kind, distance in self.distances.items()]

    def _drop_distances_without_enough_images(self) -> None:
        trainer, data = self.trainer, datamodule_of(self.trainer)
        at_most = sum(trainer.num_predict_batches) * data.batch_size * trainer.world_size
        loader: Any = trainer.predict_dataloaders
        num_mixtures = min(len(loader.dataset), at_most)
        for kind, distance in self._distances():
            if self.num_sources * num_mixtures < distance.least_images:
                rank_zero_info(
                    f"There will be no {kind}: it needs at least {distance.least_images} images, so "
                    f"{-(-distance.least_images // self.num_sources)} mixtures, and this run has {num_mixtures}."
                )
                del self.distances[kind]

    @rank_zero_only
    def on_predict_end(self) -> None:
        """Print a summary, after the progress bar has closed."""
        print(describe_summary(self.results.root, self._summary, self.num_sources))

    def _separate(self, batch: SourceTuples) -> None:
        sources, indices = batch.signals, batch.indices.tolist()
        mixtures = mix(sources, self.separator.mixing_weights)
        conditions = batch.labels if self.conditional else None
        result = self.separator.separate_batch(mixtures, conditions, seed=self.seed, indices=indices)
        estimates, codes = result.estimates, result.codes
        # Permutation-invariant scoring: exchangeable estimates are assigned to the sources by the highest mean score.
        groups = self.separator.exchangeable(conditions, len(sources))
        if (groups != torch.arange(self.num_sources, device=groups.device)).any():
            order = best_permutation(pairwise_scores(self.scoring, estimates, sources), groups)
            rows = torch.arange(len(order), device=order.device)[:, None]
            estimates, codes = estimates[rows, order], codes[rows, order]
        rebuilt = self._rebuilt(sources)
        averages = mixtures[:, None].expand_as(sources)
        by_source: dict[str, Tensor] = {}
        for kind, given in zip(SCORED, (estimates, averages, rebuilt), strict=True):
            scores = self.scoring.score_separation(given, sources, mixtures)
            by_source |= {f"{kind}{score}": values for score, values in scores.items()}
        for i, index in enumerate(indices):
            row: Row = {"mixture": index}
            row |= {name: values[i].mean().item() for name, values in by_source.items()}
            for score in self.scoring.separation_scores:
                values = by_source[score][i].tolist()
                row |= {of_source(score, name): value for name, value in zip(self.source_names, values, strict=True)}
            row |= {"residual_rms": result.residual[i].square().mean().sqrt().item()}
            row |= {
                "best_log_posterior": result.scores[i, 0].item(),
                "num_unseen_codes": int(result.num_unseen_codes[i]),
            }
            if result.log_evidence is not None:
                row |= {"log_evidence": result.log_evidence[i].item()}
            row |= {"checksum": checksum(sources[i])}
            tensors = {"estimates": estimates[i], "codes": codes[i], "entropy": result.entropy[i]}
            self.results.write(index, tensors, row)

    def _rebuilt(self, sources: Tensor) -> Tensor:
        codec = self.separator.codec
        with full_precision(self.device):
            rebuilt = codec.decode(codec.encode(sources.flatten(0, 1)))[..., : sources.shape[-1]]
        return rebuilt.view_as(sources)

    def _compare_images(self, sources: Tensor, estimates: Tensor) -> None:
        """Update the Fréchet distances; both arguments are (batch, sources, channels, height, width)."""
        mixtures = mix(sources, self.separator.mixing_weights)
        sets = (estimates.to(sources), mixtures[:, None].expand_as(sources), self._rebuilt(sources))
        images = {name: x.flatten(0, 1) for name, x in zip(SETS, sets, strict=True)}
        for _, distance in self._distances():
            distance.update(sources.flatten(0, 1), images)


def of_source(score: str, name: str) -> str:
    """Return the name of a score of one source: `psnr_1_db`, `sdr_drums_db`."""
    return f"{score.removesuffix('_db')}_{name}_db"


def checksum(signals: Tensor) -> int:
    """CRC-32 of the sources of a mixture, which identifies the mixture."""
    return zlib.crc32(signals.detach().cpu().contiguous().numpy().tobytes())
