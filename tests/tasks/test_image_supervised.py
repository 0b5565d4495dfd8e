"""Networks of masks for mixtures of images: estimates, loss in the best order, training, refusals, and stage 4."""

from __future__ import annotations

import csv
import itertools

import pytest
import torch
from conftest import REPOSITORY
from pytorch_lightning import Trainer, seed_everything
from test_configs import layered
from tiny_datasets import write_tiny_mnist
from trainings import Noise

from lass import LassError
from lass.cli.main import main
from lass.data.sources import SourceTuples
from lass.methods import Average, MaskUNet, SeparationMethod
from lass.metrics import psnr
from lass.tasks import ImageSupervisedTraining
from lass.tasks.image_supervised import in_best_order

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def tiny(num_sources=2):
    torch.manual_seed(0)
    return MaskUNet((1, 8, 8), num_sources, widths=(8, 8), num_blocks=(1, 1))


def test_the_estimates_are_positive_and_mix_into_the_mixture(tmp_path):
    network, mixtures = tiny(3), torch.rand(2, 1, 8, 8)
    assert isinstance(network, SeparationMethod)
    network.save_pretrained(tmp_path / "network")
    estimates = MaskUNet.from_pretrained(tmp_path / "network").separate_batch(mixtures).estimates
    assert (estimates >= 0).all()
    torch.testing.assert_close(estimates.mean(1), mixtures)
    torch.testing.assert_close(network.eval().separate_batch(mixtures[1:]).estimates, estimates[1:])


def test_the_loss_is_that_of_the_best_order():
    """Compared with all orders of three sources."""
    torch.manual_seed(1)
    sources, module = torch.rand(4, 3, 1, 8, 8), ImageSupervisedTraining(tiny(3))
    module.log = lambda *arguments, **options: None
    with torch.no_grad():
        estimates = module.artifact(sources.mean(1))
        errors = [
            min((each[list(order)] - truth).abs().mean() for order in itertools.permutations(range(3)))
            for each, truth in zip(estimates, sources, strict=True)
        ]
    batch = SourceTuples(sources, torch.zeros(4, 3, dtype=torch.long), torch.full((4,), -1))
    torch.testing.assert_close(module.training_step(batch), torch.stack(errors).mean())
    padding = SourceTuples(*(field[:0] for field in batch))
    module.training_step(padding).backward()  # on one rank of a distributed run
    torch.testing.assert_close(in_best_order(sources.roll(1, 1), sources), sources)


class Halves(Noise):
    """Images of noise in the upper or in the lower half."""

    def read(self, official_split):
        sources = super().read(official_split)
        for number, image in enumerate(sources.images):
            image[:, slice(None, 4) if number % 2 else slice(4, None)] = 0
        return sources


def test_a_network_learns_to_separate(tmp_path):
    """Held-out mixtures of an upper and a lower half, 3 dB better than the mixture itself."""
    seed_everything(0, verbose=False)
    module = ImageSupervisedTraining(tiny(), learning_rate=1e-2, warmup_steps=5)
    options = {"max_steps": 80, "limit_val_batches": 0}
    Trainer(default_root_dir=tmp_path, **options, **QUIET).fit(module, Halves(tuples=True))
    images = Halves().read("test").images.float() / 255
    sources = torch.stack([images[:20:2], images[1:20:2]], 1)
    scores = [
        psnr(
            in_best_order(method.separate_batch(sources.mean(1)).estimates, sources).flatten(0, 1),
            sources.flatten(0, 1),
        )
        for method in (MaskUNet.from_pretrained(tmp_path / "network"), Average())
    ]
    assert scores[0].mean() > scores[1].mean() + 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: Noise(), "known sources: set --data.tuples=true"),
        (lambda: Noise(tuples=True, num_sources=3), "for means of 2 sources, but the data has 3"),
        (lambda: Noise(tuples=True, weights=[0.3, 0.7]), "for means of 2 sources, but the data has 2 with weights"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, words, tmp_path):
    with pytest.raises(LassError, match=words):
        Trainer(default_root_dir=tmp_path / "run", **QUIET).fit(ImageSupervisedTraining(tiny()), data())


def test_images_of_another_shape_are_refused():
    with pytest.raises(LassError, match=r"for images of shape \(1, 8, 8\), got \(1, 4, 4\)"):
        tiny().separate_batch(torch.rand(1, 1, 4, 4))
    with pytest.raises(LassError, match="with even sizes"):
        MaskUNet((1, 7, 8))


def test_a_network_is_trained_and_evaluated_with_the_configs_of_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_mnist(tmp_path)
    few = ["--data.batch_size=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    few += ["--data.num_validation=10"]
    options = ["--model.network.widths=[8]", "--model.network.num_blocks=[1]"]
    options += ["--trainer.max_steps=2", "--trainer.val_check_interval=1"]
    main(["fit", "-c", str(REPOSITORY / "experiments/mnist/nes.yaml"), *few, *options])
    main(
        [
            *layered(REPOSITORY / "experiments/mnist/methods/nes.yaml"),
            *few,
            "--data.mixtures=null",
            "--data.num_mixtures=2",
        ]
    )
    with open("runs/mnist/nes/results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
