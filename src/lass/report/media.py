"""Log images, audio and histograms to Weights & Biases and TensorBoard; any other logger is skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wandb
from jaxtyping import Float
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from torch import Tensor

MAX_BINS = 512  # limit of Weights & Biases for a histogram


def image_rows(columns: Mapping[str, Float[Tensor, "num channels height width"]], padding: int = 2) -> np.ndarray:
    """Tile images into one RGB image of bytes (height, width, 3), with one row per item and one column per name.

    Values outside [0, 1] are clipped; grey images become RGB.
    """
    strips = []
    for images in columns.values():
        images = images.detach().cpu().float().clamp(0, 1)
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        strips.append(torch.nn.functional.pad(images, (padding,) * 4, value=0.5))
    rows = torch.cat(strips, dim=3)  # (num, 3, height, all widths)
    picture = torch.cat(list(rows), dim=1).movedim(0, -1)
    return (picture * 255).round().byte().numpy()


def image_strips(columns: Mapping[str, Float[Tensor, "num channels height width"]]) -> list[np.ndarray]:
    """Return one `image_rows` image per item."""
    num = len(next(iter(columns.values())))
    return [image_rows({name: images[i : i + 1] for name, images in columns.items()}) for i in range(num)]


def log_images(
    trainer: Trainer,
    key: str,
    columns: Mapping[str, Float[Tensor, "num channels height width"]],
    captions: Sequence[str] | None = None,
) -> None:
    """Log one strip of images per item to Weights & Biases, and all strips as one image to TensorBoard.

    Args:
        trainer: Trainer with the loggers.
        key: Name of the images in the loggers, `group/name`.
        columns: Images of all items by name; the names become the caption.
        captions: Further text for the caption of each item.
    """
    names = " | ".join(columns)
    for logger in trainer.loggers:
        if isinstance(logger, LightningWandbLogger):
            strips = image_strips(columns)
            said = [names] * len(strips) if captions is None else [f"{names}: {caption}" for caption in captions]
            logger.log_image(key, strips, caption=said)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, image_rows(columns), trainer.global_step, dataformats="HWC")


def log_audio(
    trainer: Trainer,
    key: str,
    columns: Mapping[str, Float[Tensor, "num 1 samples"]],
    sample_rate: int,
    captions: Sequence[str] | None = None,
) -> None:
    """Log one audio player per item and name.

    `columns` holds mono audio in [-1, 1] at `sample_rate` Hz; the remaining arguments are those of `log_images`.
    """
    clips = {name: signals.detach().cpu().float().clamp(-1, 1)[:, 0].numpy() for name, signals in columns.items()}
    num = len(next(iter(clips.values())))
    items = [(name, i, clips[name][i]) for i in range(num) for name in clips]
    for logger in trainer.loggers:
        if isinstance(logger, LightningWandbLogger):
            said = [name if captions is None else f"{name}: {captions[i]}" for name, i, _ in items]
            logger.log_audio(key, [clip for *_, clip in items], sample_rate=[sample_rate] * len(items), caption=said)
        elif isinstance(logger, TensorBoardLogger):
            for name, i, clip in items:
                logger.experiment.add_audio(f"{key}/{i} {name}", clip[None], trainer.global_step, sample_rate)


def log_picture(trainer: Trainer, key: str, path: str | Path) -> None:
    """Log an image file."""
    for logger in trainer.loggers:
        if isinstance(logger, LightningWandbLogger):
            logger.log_image(key, [str(path)])
        elif isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(Image.open(path).convert("RGB"))
            logger.experiment.add_image(key, pixels, trainer.global_step, dataformats="HWC")


def log_histogram(trainer: Trainer, key: str, heights: Tensor, edges: Tensor) -> None:
    """Log a histogram with given bins; above 512 bins, adjacent bins are merged.

    Args:
        trainer: Trainer with the loggers.
        key: Name of the histogram in the loggers, `group/name`.
        heights: Count in each bin, (bins,).
        edges: Edges of the bins, (bins + 1,).
    """
    together = -(-len(heights) // MAX_BINS)
    starts = torch.arange(0, len(heights), together)
    bins = torch.stack([part.sum() for part in heights.detach().cpu().double().split(together)]).numpy()
    limits = torch.cat([edges.cpu().double()[starts], edges.cpu().double()[-1:]]).numpy()
    for logger in trainer.loggers:
        if isinstance(logger, LightningWandbLogger):
            histogram: dict[str, Any] = {key: wandb.Histogram(np_histogram=(bins, limits))}
            logger.log_metrics(histogram, trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            centres = (limits[1:] + limits[:-1]) / 2
            moments = {"sum": bins @ centres, "sum_squares": bins @ centres**2}
            buckets = {"bucket_limits": limits[1:].tolist(), "bucket_counts": bins.tolist()}
            extent = {"min": limits[0], "max": limits[-1], "num": bins.sum()}
            logger.experiment.add_histogram_raw(key, **extent, **moments, **buckets, global_step=trainer.global_step)


def log_values(trainer: Trainer, key: str, values: Tensor, bins: int = 50) -> None:
    """Log a histogram of the finite values, over the range from min(0, smallest) to the largest."""
    values = values.detach().cpu().float().flatten()
    values = values[values.isfinite()]
    if not len(values):
        return
    low, high = min(0.0, values.min().item()), values.max().item()
    edges = torch.linspace(low, high if high > low else low + 1, bins + 1)
    log_histogram(trainer, key, torch.histc(values, bins, edges[0].item(), edges[-1].item()), edges)
