"""Stage 4: separate mixtures with known sources, and score the estimates."""

from __future__ import annotations

import zlib

import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics import CatMetric

from lass.artifacts import fingerprint
from lass.codecs import codebook_of, load_codec
from lass.data.mixing import mix
from lass.data.sources import FixedPairs, SourcePairs
from lass.errors import LassError
from lass.likelihood import load_likelihood
from lass.metrics import MeanAndDeviation, best_permutation, psnr
from lass.priors import load_prior
from lass.report.figures import save_figure, separation_figure
from lass.report.results import ResultsFolder, Row
from lass.report.summary import describe_summary
from lass.samplers import Sampler
from lass.separation import Refinement, Selection, Separator

NUM_PICTURED = 10  # mixtures in the figure

#: Scores of a mixture: the estimates; the mixture itself as both estimates; the codec's reconstruction of the sources.
SCORES = ("psnr_db", "average_psnr_db", "codec_psnr_db")


class Separation(LightningModule):
    """Separates the mixtures of a data module with `lass predict` and leaves a results folder in `default_root_dir`.

    A run that was stopped goes on at the first mixture that is missing.

    Args:
        codec: folder of the codec.
        priors: folder of the prior that all sources share, or one folder per source.
        likelihood: file of the counts or of the latents, or of a likelihood made of them.
        smoothing: pseudo-count of the likelihood, see `SparseCounts.likelihood`.
        sampler: how codes are chosen; null for TopK(512, 32).
        selection: how a candidate is chosen; null for ClosestToMixture.
        average: refine the mean latents of all candidates instead of the chosen one's.
        refinement: how it is improved; null for LatentDescent, NoRefinement to leave it.
        likelihood_weight: λ of Algorithm 1.
        conditional: give the classes of the sources to class-conditional priors (weakly supervised separation).
        seed: of the sampler.
        memory_budget: bytes for temporaries, see `separate_codes`.
        overwrite: replace results in the folder that were made with other settings.

    Source: LASS (arXiv:2301.08562), Algorithm 1; PSNR protocol of Table 2.
    """

    def __init__(
        self,
        codec: str,
        priors: str | list[str],
        likelihood: str,
        sampler: Sampler | None = None,
        selection: Selection | None = None,
        refinement: Refinement | None = None,
        likelihood_weight: float = 1.0,
        conditional: bool = False,
        seed: int = 0,
        overwrite: bool = False,
        smoothing: float = 0.0,
        memory_budget: int = 2**30,
        average: bool = False,
    ) -> None:
        super().__init__()
        folders = [priors] if isinstance(priors, str) else priors
        loaded = {folder: load_prior(folder) for folder in folders}  # one folder named twice is one shared prior
        loaded_codec = load_codec(codec)
        self.separator = Separator(
            loaded_codec,
            [loaded[folder] for folder in folders],
            load_likelihood(likelihood, smoothing, codebook_of(loaded_codec)),
            sampler,
            selection,
            refinement,
            likelihood_weight,
            memory_budget,
            average,
        )
        self.conditional, self.seed, self.overwrite = conditional, seed, overwrite
        self.scores = nn.ModuleDict({name: MeanAndDeviation() for name in SCORES})
        self.done = CatMetric()  # numbers of the mixtures, from all devices

    def on_predict_start(self) -> None:
        """Move the models to the device, and see whether there is something to go on with."""
        self.separator.to(self.device)
        self.results = ResultsFolder(self.trainer.default_root_dir)
        parts = {"codec": self.separator.codec, "likelihood": self.separator.likelihood.state_dict()}
        parts |= {f"prior_{source + 1}": prior for source, prior in enumerate(self.separator.priors)}
        fingerprints = {name: fingerprint(part) for name, part in parts.items()}
        settings = {**self.separator.settings, "conditional": self.conditional, "seed": self.seed}
        settings["mixtures_of"] = getattr(self.trainer.datamodule, "separate", None)
        if self.trainer.is_global_zero:
            self.results.start({**settings, **fingerprints}, self.overwrite)
            self.separator.save_pretrained(self.results.root / "separator")
        self.trainer.strategy.barrier()

    def predict_step(self, batch: SourcePairs) -> list[int]:
        """Separate what is not done yet, store it, and add the scores of all; returns the numbers of the mixtures."""
        indices = batch.indices.tolist()
        missing = [i for i, index in enumerate(indices) if not self.results.has(index)]
        for i, index in enumerate(indices):
            if i not in missing and self.results.read(index)[1]["checksum"] != checksum(batch.signals[i]):
                raise LassError(
                    f"{self.results.root} holds results for other mixtures: choose another folder with "
                    "--trainer.default_root_dir, or replace them with --model.overwrite=true."
                )
        if missing:
            self._separate(SourcePairs(*(field[missing] for field in batch)))
        for index in indices:
            _, row = self.results.read(index)
            for name, score in self.scores.items():
                score.update(torch.tensor(row[name]))
        self.done.update(batch.indices.float())
        return indices

    def on_predict_epoch_end(self) -> None:
        """Write the table and the picture; log both and the mean scores."""
        summary = {
            name: {key: value.item() for key, value in score.compute().items()} for name, score in self.scores.items()
        }
        done = self.done.compute().long().unique().tolist()
        self.trainer.strategy.barrier()
        self._report(summary, done)
        self._summary = summary

    @rank_zero_only
    def on_predict_end(self) -> None:
        """Say what it came to, after the progress bar has closed."""
        print(describe_summary(self.results.root, self._summary))

    def _separate(self, batch: SourcePairs) -> None:
        sources, indices = batch.signals, batch.indices.tolist()
        mixtures = mix(sources)
        conditions = batch.labels if self.conditional else None
        result = self.separator.separate_batch(mixtures, conditions, seed=self.seed, indices=indices)
        estimates, codes = result.estimates, result.codes
        # Where nothing says which estimate is which source, the better order counts.
        order = best_permutation(_pairwise_psnr(estimates, sources))
        given = torch.arange(order.shape[1], device=order.device)
        order = torch.where(self.separator.any_order(conditions, len(order))[:, None], order, given)
        rows = torch.arange(len(order), device=order.device)[:, None]
        estimates, codes = estimates[rows, order], codes[rows, order]
        codec = self.separator.codec
        rebuilt = codec.decode(codec.encode(sources.flatten(0, 1))).view_as(sources)
        averages = mixtures[:, None].expand_as(sources)
        by_source = {
            name: psnr(given.flatten(0, 1), sources.flatten(0, 1)).view(len(sources), -1)
            for name, given in zip(SCORES, (estimates, averages, rebuilt), strict=True)
        }
        for i, index in enumerate(indices):
            row: Row = {"mixture": index}
            row |= {name: by_source[name][i].mean().item() for name in SCORES}
            row |= {f"psnr_{s + 1}_db": value.item() for s, value in enumerate(by_source["psnr_db"][i])}
            row |= {"residual_rms": result.residual[i].square().mean().sqrt().item()}
            row |= {
                "best_log_posterior": result.scores[i, 0].item(),
                "num_uncounted": int(result.num_uncounted[i]),
            }
            if result.log_evidence is not None:
                row |= {"log_evidence": result.log_evidence[i].item()}
            row |= {"checksum": checksum(sources[i])}
            self.results.write(index, {"estimates": estimates[i], "codes": codes[i]}, row)

    @rank_zero_only
    def _report(self, summary: dict[str, dict[str, float]], done: list[int]) -> None:
        dataset = self.trainer.predict_dataloaders.dataset
        rows = [self.results.read(index)[1] for index in done]
        self.results.write_table(rows, summary)
        figure = self._picture(dataset, rows)
        save_figure(figure, self.results.figure)
        metrics = {f"separation/{name}/{key}": v for name, values in summary.items() for key, v in values.items()}
        metrics["separation/num_uncounted"] = sum(row["num_uncounted"] for row in rows)
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics)
            if isinstance(logger, WandbLogger):
                logger.log_image("separation/examples", [str(self.results.figure)])
                logger.log_table("separation/mixtures", list(rows[0]), [list(row.values()) for row in rows])

    def _picture(self, dataset: FixedPairs, rows: list[Row]) -> Figure:
        """Good and bad mixtures alike: from the best to the worst, in equal steps."""
        ranked = sorted(rows, key=lambda row: -row["psnr_db"])
        steps = torch.linspace(0, len(rows) - 1, min(NUM_PICTURED, len(rows))).round().long().tolist()
        shown = [ranked[step] for step in steps]
        sources = dataset.__getitems__([row["mixture"] for row in shown]).signals
        estimates = torch.stack([self.results.read(row["mixture"])[0]["estimates"] for row in shown])
        labels = [f"#{row['mixture']}\n{row['psnr_db']:.1f} dB" for row in shown]
        title = (
            f"{type(self.separator.sampler).__name__}, {len(shown)} of {len(rows)} mixtures, from the best to the worst"
        )
        return separation_figure(mix(sources), estimates, sources, mix(sources) - mix(estimates), labels, title)


def _pairwise_psnr(estimates: Tensor, sources: Tensor) -> Tensor:
    """PSNR of every estimate with every source, (batch, estimates, sources)."""
    num = estimates.shape[1]
    every_estimate = estimates[:, :, None].expand(-1, -1, num, *estimates.shape[2:])
    every_source = sources[:, None].expand_as(every_estimate)
    return psnr(every_estimate.flatten(0, 2), every_source.flatten(0, 2)).view(-1, num, num)


def checksum(signals: Tensor) -> int:
    """Tells the sources of one mixture from those of another."""
    return zlib.crc32(signals.detach().cpu().contiguous().numpy().tobytes())
