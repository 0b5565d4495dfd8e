"""Train a generator of single images adversarially."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lass.data.sources import Sources
from lass.errors import LassError, check_number
from lass.methods.gan_prior import descend
from lass.methods.generator import ImageGenerator
from lass.metrics import psnr
from lass.report.display import display_of
from lass.tasks.trainer import datamodule_of
from lass.tasks.training import TrainingTask, at_least_float32


class GANTraining(TrainingTask):
    """Trains a generator against a discriminator, and saves it to `<default_root_dir>/generator`.

    Both networks take one step per batch, in one backward pass: the discriminator's weights are constants in the loss
    of the generator, and generated images are constants in that of the discriminator. The exported version is the one
    that reproduces held-out images best, `val/psnr_db`: the PSNR after `steps` of the descent with which
    `lass.methods.GANPrior` separates mixtures, for the first validation batch.

    Args:
        generator: Network to be trained.
        width: Channels of the discriminator at half of the resolution; twice as many at a quarter.
        steps: Steps of the descent in validation.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of batches of linear warm-up.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661), Algorithm 1 with the loss -log D(G(z)); Radford et al. 2016
    (arXiv:1511.06434); spectral normalisation of the discriminator, Miyato et al. 2018 (arXiv:1802.05957).
    """

    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)
    artifact: ImageGenerator

    def __init__(
        self,
        generator: ImageGenerator,
        width: int = 64,
        steps: int = 200,
        learning_rate: float = 2e-4,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(generator, "val/psnr_db", "max", learning_rate, warmup_steps)
        check_number("width", width, at_least=1, whole=True)
        check_number("steps", steps, at_least=1, whole=True)
        self.discriminator, self.steps = Discriminator(generator.image_shape, width), steps

    def setup(self, stage: str) -> None:
        """Check that the data has single sources.

        Raises:
            LassError: if the data consists of tuples.
        """
        if getattr(datamodule_of(self.trainer), "tuples", False):
            raise LassError("A generator is trained on single sources: set --data.tuples=false.")

    def training_step(self, batch: Sources) -> Tensor:
        """Compute the sum of the losses of both networks."""
        images = at_least_float32(batch.signals)
        latents = torch.randn(len(images), self.artifact.latent_dim, device=images.device)
        of_generator, of_discriminator = adversarial_losses(self.discriminator, images, self.artifact(latents))
        self.log("train/generator_loss", of_generator)
        self.log("train/discriminator_loss", of_discriminator, prog_bar=True)
        return of_generator + of_discriminator

    def validation_step(self, batch: Sources, batch_index: int) -> None:
        """Log the PSNR of the first batch of held-out images after the descent, and samples."""
        if batch_index:
            return
        images = at_least_float32(batch.signals)
        start = torch.zeros(len(images), 1, self.artifact.latent_dim, device=images.device)
        found = self.artifact(descend(self.artifact, start, images, [1.0], self.steps)[:, 0])
        self.log("val/psnr_db", psnr(found, images).mean(), batch_size=len(images), prog_bar=True, sync_dist=True)
        display = display_of(self.artifact)
        if self.trainer.sanity_checking or not self.trainer.is_global_zero or display is None:
            return
        num = min(display.num_examples, len(images))
        samples = self.artifact(torch.randn(num, self.artifact.latent_dim, device=images.device))
        columns = {"sample": samples, "held out": images[:num], "nearest": found[:num]}
        display.log(self.trainer, "val/samples", columns, None)


class Discriminator(nn.Sequential):
    """Logit of being an image of the data: two strided convolutions and a linear layer, spectrally normalised."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        channels, height, side = shape
        super().__init__(
            spectral_norm(nn.Conv2d(channels, width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            spectral_norm(nn.Linear(2 * width * (height // 4) * (side // 4), 1)),
        )


def adversarial_losses(
    discriminator: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    generated: Float[Tensor, "batch channels height width"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Losses of the generator and of the discriminator, whose gradients reach only the network that they belong to.

    Args:
        discriminator: Maps images to logits, (batch, 1).
        images: Images of the data.
        generated: Images of the generator.
    """
    constants = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    of_generator = F.softplus(-torch.func.functional_call(discriminator, constants, (generated,))).mean()
    real, fake = discriminator(images), discriminator(generated.detach())
    return of_generator, (F.softplus(-real) + F.softplus(fake)).mean()
