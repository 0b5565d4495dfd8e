"""Report of a separation run: write the table and the figures, and log them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import wandb
from jaxtyping import Float
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from torch import Tensor

from lass.data.mixing import mix
from lass.report.display import Display
from lass.report.figures import entropy_figure, image_grid, picture
from lass.report.media import image_strips, log_picture, log_values
from lass.report.results import ResultsFolder, Row

NUM_PICTURED = 10  # mixtures in the figure
NUM_TABULATED = 500  # mixtures with a picture in the table of Weights & Biases


def report_separation(
    trainer: Trainer,
    results: ResultsFolder,
    done: list[int],
    summary: dict[str, dict[str, float]],
    entropies: Float[Tensor, "mixtures *grid"] | None,
    display: Display,
    method: str,
    source_names: Sequence[str],
    mixing_weights: Sequence[float] | None,
) -> None:
    """Write results.csv, summary.json and the figures, and log them. A figure that cannot be made is a warning.

    Args:
        trainer: Trainer of the run; its predict dataloader gives the mixtures.
        results: Results folder with the separated mixtures.
        done: Sorted indices of the separated mixtures.
        summary: Statistics of each score over all mixtures; the first score ranks the mixtures.
        entropies: Entropy of the candidates' tuples of codes at each position, in nats; None if the method has no such
            candidates.
        display: Display for the type of signal.
        method: Name of the method or of its sampler, for the title of the figure.
        source_names: Names or numbers of the sources.
        mixing_weights: Weight of each source in the mixtures; None for their mean.
    """
    rows = [results.read(index)[1] for index in done]
    results.write_table(rows, summary)
    deciding = next(iter(summary))
    mixtures = _Mixtures(trainer, results, display, source_names, mixing_weights)
    examples = _examples(rows, deciding)
    captions = [f"#{row['mixture']}, {row[deciding]:.1f} dB" for row in examples]
    pictured = mixtures.columns([int(row["mixture"]) for row in examples])
    title = f"{method}, {len(examples)} of {len(rows)} mixtures, from the best to the worst"
    picture(lambda: _figure(pictured, display, captions, title), results.figure)

    metrics = {f"separation/{name}/{key}": value for name, values in summary.items() for key, value in values.items()}
    if "num_unseen_codes" in rows[0]:
        metrics["separation/num_unseen_codes"] = sum(row["num_unseen_codes"] for row in rows)
    if entropies is not None:
        metrics["separation/entropy"] = entropies.mean().item()
    for logger in trainer.loggers:
        logger.log_metrics(metrics)
    display.log(trainer, "separation/examples", pictured, captions)
    if entropies is None:
        results.entropy_figure.unlink(missing_ok=True)  # of results that were replaced
    else:
        _report_entropies(trainer, results, entropies, len(rows))
    log_values(trainer, f"separation/{deciding}_of_mixtures", torch.tensor([row[deciding] for row in rows]))
    for logger in trainer.loggers:
        if isinstance(logger, LightningWandbLogger):
            _log_table(logger, rows, mixtures.pictures(done[:NUM_TABULATED]))


def _report_entropies(
    trainer: Trainer, results: ResultsFolder, entropies: Float[Tensor, "mixtures *grid"], num_mixtures: int
) -> None:
    """Write the figure of the entropies, and log it and their distribution at each position."""
    if picture(lambda: entropy_figure(entropies.mean(0), num_mixtures), results.entropy_figure):
        log_picture(trainer, "separation/entropy_map", results.entropy_figure)
    log_values(trainer, "separation/entropy_of_positions", entropies)
    cells = [[position, *values] for position, values in enumerate(_quantiles(entropies.flatten(1)))]
    for logger in trainer.loggers:
        if isinstance(logger, LightningWandbLogger):
            logger.log_table("separation/entropy_by_position", ["position", "10 %", "median", "90 %"], cells)


class _Mixtures:
    """Signals of separated mixtures, read from the results folder and the trainer's data."""

    def __init__(
        self,
        trainer: Trainer,
        results: ResultsFolder,
        display: Display,
        source_names: Sequence[str],
        mixing_weights: Sequence[float] | None,
    ) -> None:
        loader: Any = trainer.predict_dataloaders
        self.dataset, self.results, self.display = loader.dataset, results, display
        self.source_names, self.mixing_weights = source_names, mixing_weights

    def columns(self, indices: list[int]) -> dict[str, Tensor]:
        """Mixture, estimates, sources and residual by name, (num, channels, *space) each."""
        sources = self.dataset.__getitems__(indices).signals
        estimates = torch.stack([self.results.read(index)[0]["estimates"] for index in indices])
        mixtures = mix(sources, self.mixing_weights)
        columns = {"mixture": mixtures}
        for kind, signals in {"estimate": estimates, "source": sources}.items():
            named = zip(self.source_names, signals.unbind(1), strict=True)
            columns |= {f"{kind} {name}": one for name, one in named}
        return {**columns, "|residual|": self.display.residual(mixtures - mix(estimates, self.mixing_weights))}

    def pictures(self, indices: list[int]) -> dict[str, Tensor]:
        """The same as pictures, (num, channels, height, width) each."""
        return {name: self.display.pictures(signals) for name, signals in self.columns(indices).items()}


def _examples(rows: list[Row], deciding: str) -> list[Row]:
    """Rows at equally spaced ranks of a score, from the best to the worst: not biased to good ones."""
    ranked = sorted(rows, key=lambda row: -math.inf if math.isnan(row[deciding]) else row[deciding], reverse=True)
    ranks = torch.linspace(0, len(rows) - 1, min(NUM_PICTURED, len(rows))).round().long().tolist()
    return [ranked[rank] for rank in ranks]


def _figure(columns: dict[str, Tensor], display: Display, captions: Sequence[str], title: str) -> Figure:
    labels = [caption.replace(", ", "\n") for caption in captions]
    return image_grid({name: display.pictures(signals) for name, signals in columns.items()}, labels, title)


def _log_table(logger: LightningWandbLogger, rows: list[Row], pictures: dict[str, Tensor]) -> None:
    """Log the table of all mixtures to Weights & Biases."""
    caption = " | ".join(pictures)
    images: list[wandb.Image | None] = [wandb.Image(strip, caption=caption) for strip in image_strips(pictures)]
    images += [None] * (len(rows) - len(images))
    table: list[list[Any]] = [[image, *row.values()] for image, row in zip(images, rows, strict=True)]
    logger.log_table("separation/mixtures", ["images", *rows[0]], table)


def _quantiles(values: Float[Tensor, "mixtures positions"]) -> list[list[float]]:
    """Return the 10 %, 50 % and 90 % quantiles over mixtures at each position."""
    return torch.quantile(values.cpu().double(), torch.tensor([0.1, 0.5, 0.9]).double(), dim=0).T.tolist()
