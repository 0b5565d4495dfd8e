"""Images into whichever logger a run has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger
from torch import Tensor


def image_rows(columns: Mapping[str, Float[Tensor, "num channels height width"]], padding: int = 2) -> np.ndarray:
    """One row per item, one column per name: images beside each other, as bytes (height, width, 3).

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


def log_images(trainer: Trainer, key: str, columns: Mapping[str, Tensor]) -> None:
    """Log `image_rows` to Weights & Biases or TensorBoard, captioned with the names of the columns; else do nothing."""
    caption = " | ".join(columns)
    for logger in trainer.loggers:
        if isinstance(logger, LightningWandbLogger):
            logger.log_image(key, [image_rows(columns)], caption=[caption])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, image_rows(columns), trainer.global_step, dataformats="HWC")
