"""Training of a generator: gradients of both losses, what is learned, resumption, and stage 4 with the result."""

from __future__ import annotations

import csv

import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY
from test_configs import layered
from tiny_datasets import write_tiny_mnist
from torch import nn
from trainings import Noise, StopBefore, fit

from lass import LassError
from lass.artifacts import load_artifact
from lass.cli.main import main
from lass.tasks.gan import adversarial_losses

# 48 images in batches of 10 are five batches per epoch.
STEPS = {"max_steps": 8, "val_check_interval": 2, "check_val_every_n_epoch": None}


class Stopped(Exception):
    """Raised by tests to end a training."""


def stop():
    raise Stopped


def test_each_network_gets_the_gradient_of_its_own_loss():
    """Compared with two separate backward passes, in which the other network is frozen by hand."""
    torch.manual_seed(0)
    generator, discriminator = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    images, latents = torch.randn(6, 1, 2, 2), torch.randn(6, 3)
    of_images = nn.Sequential(nn.Flatten(), discriminator)
    sum(adversarial_losses(of_images, images, generator(latents).view(6, 1, 2, 2))).backward()
    of_generator = [parameter.grad for parameter in generator.parameters()]
    of_discriminator = [parameter.grad for parameter in discriminator.parameters()]

    fake = generator(latents)
    expected = torch.autograd.grad(-F.logsigmoid(discriminator(fake)).mean(), list(generator.parameters()))
    torch.testing.assert_close(of_generator, list(expected))
    real = F.binary_cross_entropy_with_logits(discriminator(images.flatten(1)), torch.ones(6, 1))
    loss = real + F.binary_cross_entropy_with_logits(discriminator(fake.detach()), torch.zeros(6, 1))
    torch.testing.assert_close(of_discriminator, list(torch.autograd.grad(loss, list(discriminator.parameters()))))


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    """With both networks and their optimizer; the exported version is the one of the highest score."""
    whole, _ = fit("generator", tmp_path / "whole", **STEPS)
    with pytest.raises(Stopped):
        fit("generator", tmp_path / "run", StopBefore(7, stop), **STEPS)
    resumed, trainer = fit("generator", tmp_path / "run", ckpt_path=tmp_path / "run/checkpoints/last.ckpt", **STEPS)
    assert trainer.global_step == 8
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, msg=name)
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    exported = load_artifact(tmp_path / "run/generator", "generator").state_dict()
    assert all(torch.equal(tensor, best[f"artifact.{name}"]) for name, tensor in exported.items())


class Discs(Noise):
    """Images of a bright disc, whose mean differs from that of an untrained generator."""

    def read(self, official_split):
        sources = super().read(official_split)
        distance = (torch.arange(8) - 3.5).square()
        disc = (distance[:, None] + distance < 8).byte()
        sources.images.copy_(disc * (155 + sources.images[:, :, :1, :1] % 100))
        return sources


def test_a_generator_learns_the_mean_of_the_data(tmp_path):
    """The mean squared error of the mean of its samples is a tenth of that before the training."""
    options = {"learning_rate": 3e-3}
    torch.manual_seed(0)
    module, _ = fit("generator", tmp_path / "run", data=Discs(), options=options, max_steps=150, limit_val_batches=0)
    generator, latents = module.artifact.eval(), torch.randn(200, module.artifact.latent_dim)
    truth = Discs().read("train").images.float().mean(0) / 255
    with torch.no_grad():
        error = (generator(latents).mean(0) - truth).square().mean()
    assert error < 0.1 * (0.5 - truth).square().mean()  # untrained, all pixels are about 0.5


def test_tuples_are_refused(tmp_path):
    with pytest.raises(LassError, match=r"on single sources: set --data\.tuples=false"):
        fit("generator", tmp_path / "run", data=Noise(tuples=True), max_steps=1)


def test_a_generator_is_trained_and_evaluated_with_the_configs_of_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_mnist(tmp_path)
    few = ["--data.batch_size=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    few += ["--data.num_validation=10"]
    options = ["--model.generator.width=4", "--model.width=4", "--model.steps=2"]
    options += ["--trainer.max_steps=2", "--trainer.val_check_interval=1"]
    main(["fit", "-c", str(REPOSITORY / "experiments/mnist/gan.yaml"), *few, *options])
    options = [
        "--data.mixtures=null",
        "--data.num_mixtures=2",
        "--model.method.steps=2",
        "--model.method.restart_steps=2",
    ]
    main([*layered(REPOSITORY / "experiments/mnist/methods/gan-prior.yaml"), *few, *options])
    with open("runs/mnist/gan-prior/results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
