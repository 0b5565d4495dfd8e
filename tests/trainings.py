"""Small trainings of every stage on images of noise, which take seconds."""

from __future__ import annotations

from pathlib import Path

import torch
import two_bands
from pytorch_lightning import Callback, Trainer, seed_everything

from lass.codecs import ImageVQVAE
from lass.data.images.module import ImageDataModule
from lass.data.sources import ImageSources
from lass.denoisers import UNetDenoiser
from lass.methods import ImageGenerator
from lass.metrics import ImageFeatures
from lass.priors import TransformerPrior
from lass.tasks import (
    EncodedSources,
    FeatureTraining,
    GANTraining,
    LikelihoodCounting,
    PriorTraining,
    ScoreTraining,
    SupervisedTraining,
    VQVAETraining,
)

TRAININGS = ("codec", "prior", "features")
STAGES = (*TRAININGS, "counts")
NUM_CODES = 6


class Noise(ImageDataModule):
    """Data module of noise: 48 training and 12 validation images."""

    def __init__(self, batch_size: int = 10, tuples: bool = False, num_workers: int = 0, **options) -> None:
        super().__init__(batch_size, tuples, num_validation=12, num_workers=num_workers, **options)

    def read(self, official_split):
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
        return ImageSources(images, torch.arange(60) % 3)


class StopBefore(Callback):
    """Ends a training at the start of the batch that follows a given number of optimizer steps."""

    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.how()


def codec_folder(folder: Path) -> str:
    """Save an untrained codec for the later stages, and return its folder."""
    path = folder / "codec-before"
    if not path.exists():
        torch.manual_seed(3)
        codec = ImageVQVAE((1, 8, 8), NUM_CODES, width=8, latent_dim=4)
        codec.quantizer.codebook.mul_(0.3)  # smaller vectors, so that all codes occur
        codec.save_pretrained(path)
    return str(path)


def stage_of(stage: str, codec: str, num_workers: int = 0, **options):
    """Return the LightningModule and the data module of a stage."""
    if stage == "codec":
        return VQVAETraining(ImageVQVAE((1, 8, 8), NUM_CODES, width=8, latent_dim=4), **options), Noise(
            num_workers=num_workers
        )
    if stage == "features":
        return FeatureTraining(ImageFeatures(8, width=8), **options), Noise(num_workers=num_workers)
    if stage == "network":
        return SupervisedTraining(two_bands.tiny(), **options), two_bands.TwoBands(batch_size=10)
    if stage == "score":
        denoiser = UNetDenoiser((1, 8, 8), widths=(8,), num_blocks=(1,), num_classes=3, class_dropout=0.2)
        return ScoreTraining(denoiser, **options), Noise(num_workers=num_workers)
    if stage == "generator":
        generator = ImageGenerator((1, 8, 8), latent_dim=4, width=8)
        return GANTraining(generator, width=8, steps=2, **options), Noise(num_workers=num_workers)
    if stage == "counts":
        return LikelihoodCounting(codec, **{"latents": True, **options}), Noise(tuples=True)
    prior = TransformerPrior(NUM_CODES, 4, 8, num_layers=1, num_heads=2, dropout=0.2, num_classes=3, class_dropout=0.3)
    return PriorTraining(prior, **options), EncodedSources(Noise(), codec, batch_size=10)


def fit(
    stage,
    root,
    *callbacks,
    ckpt_path=None,
    seed=0,
    num_workers=0,
    options=None,
    codec=None,
    data=None,
    **trainer_options,
):
    """Train a stage in the folder `root`, on its own data or on `data`; return the module and the trainer."""
    codec = codec or codec_folder(Path(root).parent)
    seed_everything(seed, verbose=False)
    module, own_data = stage_of(stage, codec, num_workers, **(options or {}))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=root, callbacks=list(callbacks), **{**quiet, **trainer_options})
    trainer.fit(module, data or own_data, ckpt_path=ckpt_path)
    return module, trainer
