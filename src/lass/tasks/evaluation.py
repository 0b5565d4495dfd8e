"""Stage 4 for any method: separate mixtures of known sources, and score the estimates."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, cast

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision, Precision
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch import Tensor, nn
from torchmetrics import CatMetric

from lass.artifacts import Savable, fingerprint
from lass.codecs import Codec, PowerCodec, pad_to_codes
from lass.data.mixing import mix
from lass.data.module import SourceDataModule, check_sample_rate, weights_of
from lass.data.signals import HasSampleRate
from lass.data.sources import SourceTuples
from lass.devices.precision import full_precision
from lass.errors import LassError, check_number, distinct_names
from lass.methods.protocol import (
    CodecMethod,
    DataCheckingMethod,
    FixedNumMethod,
    MovableMethod,
    SeparationMethod,
    WeightedMethod,
    checked_estimates,
    groups_of,
    identity_of,
    needs_sources,
)
from lass.metrics import MeanAndDeviation, best_permutation, pairwise_scores, scoring_of
from lass.metrics.frechet import FrechetDistances
from lass.report.display import ImageDisplay, display_of
from lass.report.results import ResultsFolder
from lass.report.separation import report_separation
from lass.report.summary import describe_summary
from lass.report.wandb_callback import Direction, WandbCallback
from lass.separation.wiener import WienerFilter
from lass.tasks.distances import SETS, make_distances
from lass.tasks.rows import checksum, extras_of, of_source, row_of
from lass.tasks.trainer import datamodule_of

#: Prefixes of the names of scores: of the estimates; of the baseline that uses the mixture as estimate of each source;
#: of the codec's reconstructions of the sources, if the method has a codec.
SCORED = ("", "average_", "codec_")
OF_METHOD = "method."  # prefix of the method's own settings, which can have the names of settings of the run


class Evaluation(LightningModule):
    """Separates the mixtures of a data module with `lass predict`, and writes a results folder to `default_root_dir`.

    A run that was stopped is resumed at the first missing mixture. Scores and pictures are those of the data's kind of
    signal: audio if the data module has a `sample_rate`, otherwise images.

    Args:
        method: Separation method.
        conditional: Whether the method is given the classes of the sources (weakly supervised separation).
        seed: Seed of the method.
        overwrite: Whether to replace results in the folder that were made with other settings.
        fid: Whether to compute the Fréchet inception distance between estimates and sources, for images. It needs
            Inception's weights and 2,049 images; if either is missing, the run prints a message and omits it.
        inception_weights: File with these weights; default in torch's download cache.
        features: Folder of ImageFeatures, for a Fréchet distance on these features, which is not an FID.
        source_names: Names of the sources, if each has a role; scores are then also given per source.

    Raises:
        LassError: if the method is for another number of sources or sample rate than the data, or if its estimates have
            a wrong shape, NaN or infinite values.

    Source: LASS (arXiv:2301.08562), PSNR protocol of Table 2.
    """

    saved_as: ClassVar[str] = "method"  # folder in the results folder, of a method that can be saved

    def __init__(
        self,
        method: SeparationMethod,
        conditional: bool = False,
        seed: int = 0,
        overwrite: bool = False,
        fid: bool = False,
        inception_weights: str | None = None,
        features: str | None = None,
        source_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        check_number("seed", seed, at_least=0, whole=True)
        self.method, self.given_names = method, source_names
        self.conditional, self.seed, self.overwrite = conditional, seed, overwrite
        self.paths = [("features", features)] if features else []  # inputs of the stage, for W&B
        self.done = CatMetric()  # indices of the mixtures, gathered from all devices
        self.entropies = CatMetric()  # (*grid) per mixture, gathered from all devices; empty for most methods
        sets = SETS if self.codec is not None else SETS[:-1]
        self.distances = make_distances(fid, inception_weights, features, sets)

    @property
    def codec(self) -> Codec | None:
        """Codec of the method, if it has one."""
        return self.method.codec if isinstance(self.method, CodecMethod) else None

    @property
    def num_sources(self) -> int:
        """Number S of sources in a mixture: that of the method, or of the data for a method of any number."""
        return self.method.num_sources if isinstance(self.method, FixedNumMethod) else self._data.num_sources

    @property
    def source_names(self) -> list[str]:
        """Names of the sources, by default "1" to "S"."""
        return self.given_names or [str(source + 1) for source in range(self.num_sources)]

    @property
    def title(self) -> str:
        """Name of the method in the title of the figure."""
        return type(self.method).__name__

    @property
    def settings(self) -> dict[str, Any]:
        """All settings on which estimates depend, as JSON-serialisable values; only equal ones resume a run."""
        settings = {f"{OF_METHOD}{name}": value for name, value in identity_of(self.method).items()}
        settings |= {"method": f"{type(self.method).__module__}.{type(self.method).__qualname__}"}
        settings |= {"conditional": self.conditional, "seed": self.seed}
        settings |= {"source_names": self.given_names} if self.given_names else {}
        weights = weights_of(self._data)
        settings |= {"mixing_weights": weights} if weights else {}
        return {**settings, "mixtures_of": getattr(self._data, "predict_split", None)}

    def other_number(self, num_sources: int) -> str:
        """End of the error for data of another number of sources than the method's: what to set."""
        name, parameters = type(self.method).__name__, inspect.signature(type(self.method)).parameters
        if "num_sources" in parameters:
            return f"{name} is for {self.num_sources}: set --model.method.num_sources={num_sources}"
        return f"{name} is for {self.num_sources}: set --data.num_sources={self.num_sources}, or use another method"

    def configure_callbacks(self) -> list[Callback]:
        """Make the scores for the data's kind of signal, and return the W&B callback of the run.

        Lightning calls this when the data is attached, before `setup` and before it moves modules to their device.
        """
        self.scoring, self.display = scoring_of(self._data), display_of(self._data) or ImageDisplay()
        kinds = SCORED if self.codec is not None else SCORED[:-1]
        names = [f"{kind}{score}" for score in self.scoring.separation_scores for kind in kinds]
        if self.given_names:
            names += [of_source(score, name) for score in self.scoring.separation_scores for name in self.given_names]
        skip_undefined = self.scoring.may_be_undefined
        self.scores = nn.ModuleDict({name: MeanAndDeviation(skip_undefined) for name in names})
        goals: dict[str, Direction] = {f"separation/{name}/mean": "max" for name in self.scores}
        for kind, distance in self._distances():
            goals |= {f"separation/{kind}/{name}": "min" for name in distance.distances}
        codec = None if self.codec is None else fingerprint(cast(nn.Module, self.codec))
        return [WandbCallback(goals, codec, used=self.paths)]

    def setup(self, stage: str) -> None:
        """Check that method and data fit, give the method its mixing weights, and replace a true half or double
        precision by float32.

        Lightning would otherwise convert the weights before they are saved and fingerprinted, and the signals before
        they are scored.

        Raises:
            LassError: if the data has another sample rate or number of sources than the method, or is audio although
                Fréchet distances are requested.
        """
        data = self._data
        if isinstance(self.method, DataCheckingMethod):
            self.method.check_data(data)
        check_sample_rate(data, self.codec)
        check_sample_rate(data, self.method, type(self.method).__name__, "set --model.method.sample_rate to")
        if isinstance(data, SourceDataModule) and data.num_sources != self.num_sources:
            raise LassError(f"The data mixes {data.num_sources} sources, but {self.other_number(data.num_sources)}.")
        if self.given_names:
            self.given_names = distinct_names(self.given_names, self.num_sources)
        if self.distances and isinstance(data, HasSampleRate):
            raise LassError(
                "Fréchet distances are for images, but this data is audio: set --model.fid=false and "
                "--model.features=null."
            )
        if isinstance(self.method, WeightedMethod):
            try:
                self.method.mixing_weights = weights_of(data)
            except AttributeError as error:  # also of a frozen dataclass
                raise LassError(
                    f"{type(self.method).__name__}.mixing_weights cannot be set to the weights of the data: make it an "
                    "ordinary attribute, not a property or one of a frozen dataclass."
                ) from error
        if isinstance(self.trainer.precision_plugin, (DoublePrecision, HalfPrecision)):
            rank_zero_info(
                f"Separation computes in float32, not in {self.trainer.precision}: 16-mixed and bf16-mixed are for "
                "faster networks."
            )
            self.trainer.strategy.precision_plugin = Precision()

    def on_predict_start(self) -> None:
        """Start or resume the results folder, save the method in it, and move the method to the device."""
        self._drop_distances_without_enough_images()
        self.results = ResultsFolder(self.trainer.default_root_dir)
        if self.trainer.is_global_zero:
            self.results.start(self.settings, self.overwrite)
            if isinstance(self.method, Savable):
                self.method.save_pretrained(self.results.root / self.saved_as)
            if there := len(list(self.results.root.glob("mixtures/*.safetensors"))):
                print(f"{there} mixtures have results already: --model.overwrite=true separates them again.")
        if isinstance(self.method, MovableMethod):
            self.method.to(self.device)  # after saving, which would copy everything back to the CPU
        self.trainer.strategy.barrier()

    def predict_step(self, batch: SourceTuples) -> list[int]:
        """Separate the mixtures of a batch that have no stored results, store them, and update the scores of all.

        Returns:
            The indices of the mixtures in the batch.

        Raises:
            LassError: if the folder holds results for other mixtures, or the method gives invalid estimates.
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
        entropies = [tensors["entropy"] for tensors in stored if "entropy" in tensors]
        self.entropies.update(torch.stack(entropies).to(self.device) if entropies else torch.empty(0))
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
        done, gathered = self.done.compute().long().unique().tolist(), self.entropies.compute()
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            entropies = gathered if len(gathered) else None
            names, weights = self.source_names, weights_of(self._data)
            report_separation(
                self.trainer, self.results, done, summary, entropies, self.display, self.title, names, weights
            )
        self._summary = summary

    @rank_zero_only
    def on_predict_end(self) -> None:
        """Print a summary, after the progress bar has closed."""
        print(describe_summary(self.results.root, self._summary, self.num_sources))

    @property
    def _data(self) -> Any:
        return datamodule_of(self.trainer)

    def _scores(self) -> list[tuple[str, MeanAndDeviation]]:
        return [(name, cast(MeanAndDeviation, score)) for name, score in self.scores.items()]

    def _distances(self) -> list[tuple[str, FrechetDistances]]:
        return [(kind, cast(FrechetDistances, distance)) for kind, distance in self.distances.items()]

    def _drop_distances_without_enough_images(self) -> None:
        trainer, data = self.trainer, self._data
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

    def _separate(self, batch: SourceTuples) -> None:
        sources, indices = batch.signals, batch.indices.tolist()
        mixtures = mix(sources, weights_of(self._data))
        conditions = batch.labels if self.conditional else None
        given = mixtures if isinstance(self.method, MovableMethod) else mixtures.cpu()
        classes = None if conditions is None else conditions.to(given.device)
        needed = {"sources": sources.to(given.device)} if needs_sources(self.method) else {}
        result = self.method.separate_batch(given, classes, seed=self.seed, indices=indices, **needed)
        estimates = checked_estimates(self.method, result, mixtures, sources.shape[1], indices)
        codes = result.codes
        # Permutation-invariant scoring: exchangeable estimates are assigned to the sources by the highest mean score.
        groups = groups_of(self.method, conditions, *sources.shape[:2])
        if (groups != torch.arange(sources.shape[1], device=groups.device)).any():
            order = best_permutation(pairwise_scores(self.scoring, estimates, sources), groups)
            rows = torch.arange(len(order), device=order.device)[:, None]
            estimates, codes = estimates[rows, order], None if codes is None else codes[rows, order]
        averages = mixtures[:, None].expand_as(sources)
        by_source: dict[str, Tensor] = {}
        for kind, estimated in zip(SCORED, (estimates, averages, self._rebuilt(sources, mixtures)), strict=True):
            if estimated is not None:
                scores = self.scoring.score_separation(estimated, sources, mixtures)
                by_source |= {f"{kind}{score}": values for score, values in scores.items()}
        residual = mixtures - mix(estimates, weights_of(self._data)) if result.residual is None else result.residual
        for i, index in enumerate(indices):
            scores = {name: values[i] for name, values in by_source.items()}
            row = row_of(index, scores, self.scoring.separation_scores, self.source_names)
            row |= {"residual_rms": residual[i].square().mean().sqrt().item(), **extras_of(result, i)}
            row |= {"checksum": checksum(sources[i])}
            optional = {"codes": codes, "entropy": result.entropy}
            tensors = {name: tensor[i] for name, tensor in optional.items() if tensor is not None}
            self.results.write(index, {"estimates": estimates[i], **tensors}, row)

    def _rebuilt(self, sources: Tensor, mixtures: Tensor) -> Tensor | None:
        """The codec's reconstructions of the sources, (batch, sources, channels, *space); None without a codec.

        A codec of powers has no phases; its reconstructions are the mixture with masks from the powers of the sources.
        """
        codec = self.codec
        if codec is None:
            return None
        with full_precision(self.device):
            if isinstance(codec, PowerCodec):
                latents = codec.embed(codec.encode(sources.flatten(0, 1))).unflatten(0, sources.shape[:2])
                masks, padded = WienerFilter(codec.window), pad_to_codes(codec, mixtures)
                return masks.refine(latents, padded, codec, weights_of(self._data))[..., : sources.shape[-1]]
            rebuilt = codec.decode(codec.encode(sources.flatten(0, 1)))[..., : sources.shape[-1]]
        return rebuilt.view_as(sources)

    def _compare_images(self, sources: Tensor, estimates: Tensor) -> None:
        """Update the Fréchet distances; both arguments are (batch, sources, channels, height, width)."""
        mixtures = mix(sources, weights_of(self._data))
        sets = (estimates.to(sources), mixtures[:, None].expand_as(sources), self._rebuilt(sources, mixtures))
        images = {name: x.flatten(0, 1) for name, x in zip(SETS, sets, strict=True) if x is not None}
        for _, distance in self._distances():
            distance.update(sources.flatten(0, 1), images)
