"""Tags, directions and lineage, on a fake online run that records its calls; offline runs are in test_pages."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger

from lass import SparseCounts
from lass.artifacts import fingerprint
from lass.codecs import ImageVQVAE
from lass.report.media import log_histogram, log_values
from lass.report.wandb_callback import WandbCallback, tag_codec
from lass.report.wandb_logger import WandbLogger


class RememberingRun:
    """Fake online run that records its calls."""

    group, disabled = "digits", False

    def __init__(self, offline=False):
        self.offline, self.tags = offline, ("digits", "prior")
        self.directions, self.used, self.made, self.logged = {}, [], [], {}

    def define_metric(self, name, step_metric, summary):
        self.directions[name] = (summary, step_metric)

    def use_artifact(self, artifact):
        self.used.append(artifact)

    def log_artifact(self, artifact):
        self.made.append(artifact)

    def log(self, values):
        self.logged |= values


class OneOfMany(Trainer):
    """Trainer of one process of a distributed run."""

    is_global_zero, global_step = True, 7


def trainer_of(run, tmp_path):
    logger = WandbLogger("digits", "prior", save_dir=str(tmp_path))
    logger._experiment = run
    others = CSVLogger(tmp_path)  # must not be used
    return OneOfMany(logger=[others, logger], enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")


@pytest.fixture
def parts(tmp_path):
    """Paths of a codec's folder and of a file of counts."""
    codec = ImageVQVAE((1, 8, 8), num_codes=4, width=8, latent_dim=3)
    codec.save_pretrained(tmp_path / "codec")
    counts = SparseCounts(4, codec_fingerprint=fingerprint(codec))
    counts.add(*torch.randint(4, (3, 50)))
    counts.save(tmp_path / "counts.safetensors")
    return [("codec", tmp_path / "codec"), ("likelihood", str(tmp_path / "counts.safetensors"))]


def test_what_one_stage_made_is_what_the_next_one_used(parts, tmp_path):
    """Artifacts are identified by content: equal files are one artifact, changed ones a new version of it."""
    making, using, changed = RememberingRun(), RememberingRun(), RememberingRun()
    WandbCallback({}, made=parts).on_fit_end(trainer_of(making, tmp_path), LightningModule())
    WandbCallback({}, used=parts).setup(trainer_of(using, tmp_path), LightningModule(), "fit")
    assert [(x.name, x.type) for x in making.made] == [("digits-codec", "codec"), ("digits-counts", "likelihood")]
    assert [(x.name, x.digest) for x in making.made] == [(x.name, x.digest) for x in using.used]
    assert not making.used
    assert not using.made

    ImageVQVAE((1, 8, 8), num_codes=4, width=8, latent_dim=3).save_pretrained(tmp_path / "codec")
    WandbCallback({}, used=parts).setup(trainer_of(changed, tmp_path), LightningModule(), "fit")
    assert changed.used[0].name == using.used[0].name
    assert changed.used[0].digest != using.used[0].digest
    assert changed.used[1].digest == using.used[1].digest


def test_offline_nothing_is_copied(parts, tmp_path):
    run = RememberingRun(offline=True)
    dashboard = WandbCallback({}, used=parts, made=parts)
    dashboard.setup(trainer_of(run, tmp_path), LightningModule(), "fit")
    dashboard.on_fit_end(trainer_of(run, tmp_path), LightningModule())
    assert not run.used
    assert not run.made


def test_nothing_made_is_nothing_kept(tmp_path):
    run = RememberingRun()
    WandbCallback({}, made=[("prior", tmp_path / "nowhere")]).on_fit_end(trainer_of(run, tmp_path), LightningModule())
    assert not run.made


def test_directions_and_the_tag_of_the_codec(tmp_path):
    run = RememberingRun()
    trainer = trainer_of(run, tmp_path)
    WandbCallback({"val/loss": "min", "val/psnr_db": "max"}, codec_fingerprint="0123456789abcdef").setup(
        trainer, LightningModule(), "fit"
    )
    step = "trainer/global_step"
    assert run.directions == {"val/loss": ("min", step), "val/psnr_db": ("max", step)}
    assert run.tags == ("digits", "prior", "codec-0123456789abcdef")
    tag_codec(trainer, "fedcba9876543210")  # a better codec replaces it
    assert run.tags == ("digits", "prior", "codec-fedcba9876543210")


def test_a_training_that_is_stopped_by_hand_keeps_what_it_made(parts, tmp_path):
    run = RememberingRun()
    dashboard, trainer = WandbCallback({}, made=parts), trainer_of(run, tmp_path)
    dashboard.on_exception(trainer, LightningModule(), ValueError("a mistake"))
    assert not run.made
    dashboard.on_exception(trainer, LightningModule(), KeyboardInterrupt())
    assert [x.name for x in run.made] == ["digits-codec", "digits-counts"]


def test_a_server_that_does_not_answer_stops_nothing(parts, tmp_path, monkeypatch):
    def refuses(artifact):
        raise ValueError("no space left")

    run = RememberingRun()
    monkeypatch.setattr(run, "use_artifact", refuses)
    with pytest.warns(UserWarning, match="did not take .*no space left.*continues without it"):
        WandbCallback({}, used=parts).setup(trainer_of(run, tmp_path), LightningModule(), "fit")


def test_other_processes_leave_the_page_alone(parts, tmp_path):
    run = RememberingRun()
    trainer = trainer_of(run, tmp_path)
    trainer.is_global_zero = False
    dashboard = WandbCallback({"x": "min"}, "abc", used=parts, made=parts)
    dashboard.setup(trainer, LightningModule(), "fit")
    dashboard.on_fit_end(trainer, LightningModule())
    assert not run.directions
    assert not run.used
    assert not run.made


def test_long_histograms_put_neighbours_together(tmp_path):
    """Histograms are reduced to the 512 bins of Weights & Biases, with an unchanged total and a subset of the edges."""
    for num_bins, expected in ((512, 512), (513, 257), (2000, 500)):
        run = RememberingRun()
        log_histogram(trainer_of(run, tmp_path), "use", torch.arange(num_bins), torch.arange(num_bins + 1))
        histogram = run.logged["use"]
        assert len(histogram.histogram) == expected
        assert sum(histogram.histogram) == num_bins * (num_bins - 1) / 2
        assert (histogram.bins[0], histogram.bins[-1]) == (0, num_bins)
        assert len(histogram.bins) == expected + 1


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 2.0, 2.0, 5.0], [-3.0, 4.0], [7.0]])
def test_every_value_is_in_the_histogram(tmp_path, values):
    run = RememberingRun()
    log_values(trainer_of(run, tmp_path), "scores", torch.tensor(values))
    histogram = run.logged["scores"]
    assert sum(histogram.histogram) == len(values)
    assert histogram.bins[0] <= min(values)
    assert histogram.bins[-1] >= max(values)
