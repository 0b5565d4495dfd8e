"""Training of denoisers: the averaged weights, resumed runs, and bad data."""

from __future__ import annotations

import pytest
import torch
import two_bands
from pytorch_lightning import Callback, Trainer
from trainings import Noise, StopBefore, fit

from lass import LassError
from lass.artifacts import load_artifact
from lass.denoisers import UNetDenoiser
from lass.tasks import ScoreTraining

STEPS = {"max_steps": 9, "val_check_interval": 3, "check_val_every_n_epoch": None}


class Stopped(Exception):
    pass


def stop():
    raise Stopped


class Record(Callback):
    """Weights after every optimizer step."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append({name: tensor.clone() for name, tensor in pl_module.artifact.named_parameters()})


def test_the_average_of_the_weights_is_exported(tmp_path):
    """Compared with the recursion; the decay after n batches is the smaller of 0.8 and n / (n + 10)."""
    record = Record()
    module, _ = fit("score", tmp_path, record, options={"average_decay": 0.8}, limit_val_batches=0, max_steps=60)
    exported = dict(load_artifact(tmp_path / "denoiser", "denoiser").named_parameters())
    expected = record.weights[0]
    for number, weights in enumerate(record.weights[1:], 1):
        decay = min(0.8, number / (number + 10))
        expected = {name: decay * expected[name] + (1 - decay) * weights[name] for name in weights}
    for name, tensor in expected.items():
        torch.testing.assert_close(exported[name], tensor, msg=name)
    assert not torch.allclose(exported["network.level.1.weight"], module.artifact.network.level[1].weight)


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    whole, _ = fit("score", tmp_path / "whole", **STEPS)
    with pytest.raises(Stopped):
        fit("score", tmp_path / "run", StopBefore(7, stop), **STEPS)
    resumed, trainer = fit("score", tmp_path / "run", ckpt_path=tmp_path / "run/checkpoints/last.ckpt", seed=9, **STEPS)
    assert trainer.global_step == 9
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, msg=name)
    assert "val/loss" in trainer.callback_metrics


def test_the_average_moves_after_steps_of_the_optimizer_only(tmp_path):
    module, trainer = fit("score", tmp_path, accumulate_grad_batches=2, max_steps=4, limit_val_batches=0)
    assert trainer.global_step == int(module.average.n_averaged) == 4


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
def test_true_precisions_are_refused(precision, tmp_path):
    with pytest.raises(LassError, match=f"not trained in {precision}: set --trainer.precision=bf16-mixed"):
        fit("score", tmp_path, precision=precision, max_steps=1)


def test_a_mixed_precision_gives_the_loss_of_float32(tmp_path):
    losses = [
        fit("score", tmp_path / name, precision=name, max_epochs=2)[1].callback_metrics["val/loss"].item()
        for name in ("32-true", "bf16-mixed")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_bad_data_is_refused(tmp_path):
    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False, accelerator="cpu")
    images = ScoreTraining(UNetDenoiser((1, 8, 8), widths=(8,), num_blocks=(1,)))
    with pytest.raises(LassError, match=r"single sources: set --data\.tuples=false"):
        trainer.fit(images, Noise(tuples=True))
    audio = ScoreTraining(UNetDenoiser((1, 64), 100, widths=(8,), num_blocks=(1,)))
    with pytest.raises(LassError, match="8000 samples per second, but the denoiser is for 100"):
        trainer.fit(audio, two_bands.TwoBands(tuples=False))
