"""Training stages: files and weights after a stop, a dry run, a divergence, a full disk, or in another precision."""

from __future__ import annotations

import copy
import json
import math
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from trainings import NUM_CODES, STAGES, TRAININGS, Noise, StopBefore, codec_folder, fit, stage_of

from lass.artifacts import CONFIG_FILE, WEIGHTS_FILE, fingerprint, load_artifact
from lass.codecs import AudioVQVAE, ImageVQVAE, VectorQuantizer
from lass.data.codes import CodeSequences, CodeShard, write_codes
from lass.data.sources import Sources
from lass.errors import LassError
from lass.priors import TransformerPrior
from lass.tasks import EncodedSources, LikelihoodCounting, PriorTraining, VQVAETraining
from lass.tasks.checkpoints import AtomicCheckpointIO

# 48 images in batches of 10 are five batches per epoch; 30 steps are six epochs.
EVERY_TWO_EPOCHS = {"max_epochs": 6, "check_val_every_n_epoch": 2}
EVERY_FOUR_STEPS = {"max_steps": 30, "val_check_interval": 4, "check_val_every_n_epoch": None}
NO_VALIDATION = {"max_epochs": 6, "limit_val_batches": 0}


class Stopped(Exception):
    """Raised by tests to end a training."""


def stop():
    raise Stopped


def interrupt():
    raise KeyboardInterrupt


def files_of(folder):
    """Return the content of every file in a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_weights(module, other):
    """Compare weights bitwise; this holds for identical operations in identical order on one thread of one machine."""
    weights, others = module.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Function that returns the module of an uninterrupted training, cached by its options."""
    made = {}

    def of(stage, **options):
        key = (stage, *sorted(options.items()))
        if key not in made:
            made[key], _ = fit(stage, tmp_path_factory.mktemp(stage) / "run", **options)
        return made[key]

    return of


@pytest.mark.parametrize("stage", TRAININGS)
@pytest.mark.parametrize(
    ("options", "step"),
    [(EVERY_TWO_EPOCHS, 13), (EVERY_FOUR_STEPS, 13), (EVERY_FOUR_STEPS, 21)],
    ids=["end of an epoch", "middle of an epoch", "an epoch's last batch"],
)
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    uninterrupted, stage, options, step, tmp_path
):
    """Resumed from the checkpoint of the last validation, with another process seed and existing encoded sources."""
    with pytest.raises(Stopped):
        fit(stage, tmp_path / "run", StopBefore(step, stop), **options)
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert (
        torch.load(last, weights_only=True)["global_step"] == {13: 10 if "max_epochs" in options else 12, 21: 20}[step]
    )
    resumed, trainer = fit(stage, tmp_path / "run", ckpt_path=last, seed=99, **options)
    assert trainer.global_step == 30
    assert_same_weights(resumed, uninterrupted(stage, **options))


@pytest.mark.parametrize("step", [13, 15])
@pytest.mark.parametrize(
    "options", [EVERY_TWO_EPOCHS, EVERY_FOUR_STEPS, NO_VALIDATION], ids=["epochs", "steps", "never"]
)
def test_a_training_that_ended_early_is_continued(uninterrupted, options, step, tmp_path):
    """A training ended between two validations, as by a time limit, resumes from a checkpoint of its last batch."""

    class TimeIsUp(Callback):
        def on_train_batch_end(self, trainer, *arguments):
            trainer.should_stop = trainer.global_step == step

    fit("prior", tmp_path / "run", TimeIsUp(), **options)
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    resumed, _ = fit("prior", tmp_path / "run", ckpt_path=last, seed=99, **options)
    assert_same_weights(resumed, uninterrupted("prior", **options))


def test_limited_epochs_are_continued(uninterrupted, tmp_path):
    """A training resumes also after the last batch of an epoch without validation."""
    options = {**EVERY_TWO_EPOCHS, "limit_train_batches": 3}
    fit("codec", tmp_path / "run", **{**options, "max_epochs": 3})
    resumed, _ = fit("codec", tmp_path / "run", ckpt_path=tmp_path / "run/checkpoints/last.ckpt", **options)
    assert_same_weights(resumed, uninterrupted("codec", **options))


def test_processes_that_load_data_know_the_resumed_epoch(uninterrupted, tmp_path):
    with pytest.raises(Stopped):
        fit("codec", tmp_path / "run", StopBefore(18, stop), num_workers=1, **EVERY_FOUR_STEPS)
    last = tmp_path / "run/checkpoints/last.ckpt"
    resumed, _ = fit("codec", tmp_path / "run", ckpt_path=last, num_workers=1, **EVERY_FOUR_STEPS)
    assert_same_weights(resumed, uninterrupted("codec", **EVERY_FOUR_STEPS))


@pytest.mark.slow
def test_a_killed_process_is_continued(uninterrupted, tmp_path):
    """A process killed by SIGKILL in the middle of an epoch can be resumed."""
    codec_folder(tmp_path)
    kill = "import os, sys, torch, trainings; torch.set_num_threads(1); " + (
        f"trainings.fit('prior', {str(tmp_path / 'run')!r}, trainings.StopBefore(18, lambda: os.kill(os.getpid(), 9)), "
        f"**{EVERY_FOUR_STEPS!r})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", kill], env=environment, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 16
    resumed, _ = fit("prior", tmp_path / "run", ckpt_path=last, seed=99, **EVERY_FOUR_STEPS)
    assert_same_weights(resumed, uninterrupted("prior", **EVERY_FOUR_STEPS))


@pytest.mark.parametrize("stage", TRAININGS)
def test_validations_do_not_change_a_training(uninterrupted, stage):
    """Weights depend neither on the number of validations nor on the random numbers drawn in them."""
    for options in (EVERY_TWO_EPOCHS, {**EVERY_TWO_EPOCHS, "num_sanity_val_steps": 0}):
        assert_same_weights(uninterrupted(stage, **options), uninterrupted(stage, **NO_VALIDATION))


def test_codes_that_were_there_before_change_nothing(uninterrupted, tmp_path):
    fit("prior", tmp_path / "run", max_epochs=1)
    again, _ = fit("prior", tmp_path / "run", **NO_VALIDATION)
    assert_same_weights(again, uninterrupted("prior", **NO_VALIDATION))


def test_other_seeds_give_other_weights(uninterrupted, tmp_path):
    """The seed changes the order of batches and dropout; initial weights are equal."""

    class SameWeights(Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.load_state_dict({name: torch.full_like(x, 0.1) for name, x in pl_module.state_dict().items()})

    one, other = (fit("prior", tmp_path / str(seed), SameWeights(), seed=seed, max_epochs=1)[0] for seed in (0, 1))
    assert not all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())


# Exported artefacts and checkpoints


class Scores(Callback):
    """Replaces the validation scores by given ones."""

    def __init__(self, *scores):
        self.scores = list(scores)

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            trainer.callback_metrics[pl_module.monitor].fill_(self.scores.pop(0))


def test_the_best_version_is_exported_and_the_last_one_resumed(tmp_path, caplog):
    weights = []

    class Remember(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                weights.append(fingerprint(pl_module.artifact))

    caplog.set_level("INFO")
    fit("prior", tmp_path / "run", Scores(3.0, 1.0, 2.0), Remember(), max_epochs=3)
    assert fingerprint(load_artifact(tmp_path / "run/prior", "prior")) == weights[1]
    steps = {name: torch.load(tmp_path / f"run/checkpoints/{name}.ckpt")["global_step"] for name in ("best", "last")}
    assert steps == {"best": 10, "last": 15}
    assert "run/prior is the version of step 10 (val/nats_per_code = 1, the best)" in caplog.text

    last = tmp_path / "run/checkpoints/last.ckpt"
    fit("prior", tmp_path / "run", Scores(1.5, 0.5), Remember(), ckpt_path=last, max_epochs=4)
    assert fingerprint(load_artifact(tmp_path / "run/prior", "prior")) == weights[1]  # better than 1.5
    last.rename(tmp_path / "moved.ckpt")
    fit("prior", tmp_path / "new", Scores(1.7), Remember(), ckpt_path=tmp_path / "moved.ckpt", max_epochs=5)
    assert fingerprint(load_artifact(tmp_path / "new/prior", "prior")) == weights[-1]  # the folder holds no better one


@pytest.mark.parametrize("stage", TRAININGS)
@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 2, "check_val_every_n_epoch": 10},
        {"max_epochs": 2, "limit_val_batches": 0},
        {"max_steps": 10, "val_check_interval": 20, "check_val_every_n_epoch": None},
    ],
    ids=["not due", "none", "steps"],
)
def test_what_no_validation_has_seen_is_exported(stage, options, tmp_path, caplog):
    caplog.set_level("INFO")
    module, _ = fit(stage, tmp_path / "run", **options)
    kind = module.artifact.kind
    assert fingerprint(load_artifact(tmp_path / "run" / kind, kind)) == fingerprint(module.artifact)
    assert f"run/{kind} is the version of step 10 (not validated)" in caplog.text


def test_a_training_that_is_interrupted_leaves_its_best_version(tmp_path):
    with pytest.raises(SystemExit):
        fit("codec", tmp_path / "early", StopBefore(3, interrupt), **EVERY_TWO_EPOCHS)
    assert load_artifact(tmp_path / "early/codec", "codec").num_codes == NUM_CODES
    with pytest.raises(SystemExit):
        fit("codec", tmp_path / "late", StopBefore(13, interrupt), **EVERY_TWO_EPOCHS)
    best = torch.load(tmp_path / "late/checkpoints/best.ckpt")["state_dict"]
    for name, tensor in load_file(tmp_path / f"late/codec/{WEIGHTS_FILE}").items():
        assert torch.equal(tensor, best[f"artifact.{name}"])
    with pytest.raises(SystemExit):
        fit("codec", tmp_path / "none", StopBefore(0, interrupt), **EVERY_TWO_EPOCHS)
    assert not (tmp_path / "none/codec").exists()
    before = files_of(tmp_path / "late/codec")
    with pytest.raises(SystemExit):  # a new training, stopped at once
        fit("codec", tmp_path / "late", StopBefore(3, interrupt), seed=1, **EVERY_TWO_EPOCHS)
    assert files_of(tmp_path / "late/codec") == before


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("dry", [{"fast_dev_run": True}, {"enable_checkpointing": False, "max_epochs": 1}], ids=str)
def test_a_dry_run_writes_nothing(stage, dry, tmp_path):
    codec_folder(tmp_path)
    fit(stage, tmp_path / "fresh", **dry)
    assert not (tmp_path / "fresh").exists()
    fit(stage, tmp_path / "run", max_epochs=2)
    before = files_of(tmp_path / "run")
    assert {"checkpoints/last.ckpt"} < before.keys()
    fit(stage, tmp_path / "run", **dry)
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_fresh_training_keeps_the_one_before(stage, tmp_path, caplog):
    caplog.set_level("INFO")
    fit(stage, tmp_path / "run", max_epochs=2)
    assert "earlier training" not in caplog.text
    before = files_of(tmp_path / "run")
    fit(stage, tmp_path / "run", max_epochs=1, seed=1)
    assert "earlier training, which is kept in" in caplog.text
    after = files_of(tmp_path / "run")
    kept = {name for name in before if not name.startswith("codes/")}
    assert {name for name in after if name.startswith("previous/")} == {f"previous/{name}" for name in kept}
    for name in kept:
        assert after[f"previous/{name}"] == before[name]
        if not name.endswith(CONFIG_FILE):
            assert after[name] != before[name]
    caplog.clear()
    fit(stage, tmp_path / "run", max_epochs=2, ckpt_path=tmp_path / "run/checkpoints/last.ckpt")
    assert "earlier training" not in caplog.text


@pytest.mark.parametrize("stage", TRAININGS)
def test_a_diverging_training_stops_with_one_sentence(stage, tmp_path):
    fit(stage, tmp_path / "run", max_epochs=1)
    before = files_of(tmp_path / "run" / "checkpoints")
    options = {"learning_rate": 1e30, "warmup_steps": 0}
    with pytest.raises(LassError, match=r"^The training diverged, .* at step \d+: set a smaller [^\n]*\.$"):
        fit(stage, tmp_path / "run", options=options, **{**NO_VALIDATION, "max_epochs": 100})
    assert files_of(tmp_path / "run" / "checkpoints") == before
    kind = "codec" if stage == "codec" else stage
    assert all(x.isfinite().all() for x in load_artifact(tmp_path / "run" / kind, kind).state_dict().values())


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_stops_a_training(score, tmp_path):
    with pytest.raises(LassError, match=rf"val/nats_per_code is {score} at step 10: .*; .*run/prior holds the best"):
        fit("prior", tmp_path / "run", Scores(1.0, score, 0.5), max_epochs=3)
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 5


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    class Damage(Callback):
        def on_train_end(self, trainer, pl_module):
            pl_module.artifact.encoder[0].weight.data[0] = math.inf

    fit("codec", tmp_path / "run", max_epochs=1)
    before = files_of(tmp_path / "run/codec")
    with pytest.raises(LassError, match="weights that are not finite"):
        fit("codec", tmp_path / "run", Damage(), **NO_VALIDATION)
    assert files_of(tmp_path / "run/codec") == before


# Files


@contextmanager
def full_disk(room):
    """Simulate a full disk: limit the size of files written by this process to `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 5000, 100_000])
def test_a_full_disk_leaves_the_checkpoint_before(room, tmp_path):
    files, path = AtomicCheckpointIO("Stage"), tmp_path / "checkpoints/last.ckpt"
    files.save_checkpoint({"lass_stage": "Stage", "weights": torch.zeros(50_000)}, path)
    before = path.read_bytes()
    assert len(before) > 100_000
    with (
        full_disk(room),
        pytest.raises(LassError, match=rf"{path} cannot be read or written \(File too large\): make room"),
    ):
        files.save_checkpoint({"lass_stage": "Stage", "weights": torch.ones(50_000)}, path)
    assert files_of(tmp_path) == {"checkpoints/last.ckpt": before}
    assert files.load_checkpoint(path)["weights"].sum() == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_trainer_on_a_full_disk_stops_with_one_sentence(stage, tmp_path, monkeypatch):
    """All checkpoints (last, best, counts) are written atomically, also with a Trainer made without the CLI."""
    fit(stage, tmp_path / "run", max_epochs=1)
    checkpoints = files_of(tmp_path / "run/checkpoints")
    assert checkpoints.keys() == ({"last.ckpt"} if stage == "counts" else {"best.ckpt", "last.ckpt"})

    def half(checkpoint, file):
        file.write(b"PK half of it")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(LassError, match=r"\.ckpt cannot be read or written \(No space left on device\): make room"):
        fit(stage, tmp_path / "run", max_epochs=2, ckpt_path=tmp_path / "run/checkpoints/last.ckpt")
    assert files_of(tmp_path / "run/checkpoints") == checkpoints


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_another_stage_is_named(stage, tmp_path):
    others = {name: tmp_path / name / "checkpoints/last.ckpt" for name in STAGES if name != stage}
    for name, path in others.items():
        fit(name, tmp_path / name, max_epochs=1)
        with pytest.raises(LassError, match=rf"{path} is a checkpoint of \w+, but this run is \w+: start without"):
            fit(stage, tmp_path / "run", ckpt_path=path, max_epochs=2)


class Unsafe:
    """Object whose unpickling creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["plain", "list", "unsafe", "noise", "none"])
def test_what_is_no_checkpoint_is_refused_in_one_sentence(content, tmp_path):
    path, touched = tmp_path / "x.ckpt", tmp_path / "touched"
    if content == "noise":
        path.write_bytes(b"PK\x03\x04 nothing")
    elif content != "none":
        torch.save(
            {"plain": {"weights": torch.ones(1)}, "list": [1, 2], "unsafe": {"a": Unsafe(touched)}}[content], path
        )
    with pytest.raises(LassError, match=r"^[^\n]*x\.ckpt[^\n]*: start without --ckpt_path\.$") as error:
        fit("prior", tmp_path / "run", ckpt_path=path, max_epochs=1)
    assert "weights_only" not in str(error.value)
    assert not touched.exists()


def test_a_checkpoint_of_another_size_names_the_setting(tmp_path):
    fit("prior", tmp_path / "run", max_epochs=1)
    last = tmp_path / "run/checkpoints/last.ckpt"
    module, _ = stage_of("prior", codec_folder(tmp_path))
    for name, value in {"dim": 16, "num_heads": 4}.items():  # num_heads does not change any shape
        changed = TransformerPrior(**{**module.artifact.config, name: value})
        with pytest.raises(LassError, match=rf"a prior with {name} = \d, but this run's has {value}: start without"):
            PriorTraining(changed).on_load_checkpoint(torch.load(last, weights_only=True))


# Precision


@pytest.fixture(scope="module")
def float32_scores():
    """Scores of short trainings in float32, by stage."""
    return {}


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_runs_in_every_precision(stage, precision, tmp_path, float32_scores):
    options = {"linearity": 0.1} if stage == "codec" else {}
    module, trainer = fit(stage, tmp_path / "run", precision=precision, max_epochs=4, options=options)
    if stage == "counts":
        assert module.counts.num_triples == 4 * 24 * 4  # epochs, pairs, positions
        return
    if stage not in float32_scores:
        _, trained = fit(stage, tmp_path / "float32", max_epochs=4, options=options)
        float32_scores[stage] = trained.callback_metrics[module.monitor].item()
    tensors = load_file(tmp_path / f"run/{module.artifact.kind}/{WEIGHTS_FILE}")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    # bfloat16 has 8 bits: 20 steps of 0.001 move weights of 0.1 by up to 0.02, in multiples of 0.0005. Rounding changes
    # scores far less than training does; on noise, a model can only learn the mean.
    score = trainer.callback_metrics[module.monitor].item()
    assert score == pytest.approx(float32_scores[stage], rel=0.1, abs=0.1)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true", "bf16-mixed"])
def test_an_audio_codec_trains_in_every_precision(precision, tmp_path):
    """The spectral loss needs float32: half precision has no Fourier transform, and would round the window."""
    batch = Sources(torch.rand(4, 1, 4096) - 0.5, torch.zeros(4, dtype=torch.long))
    losses = []

    class Remember(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *arguments):
            losses.append(outputs["loss"].item())

    codec = AudioVQVAE(8000, NUM_CODES, width=16, latent_dim=4)
    for used in ("32-true", precision):
        seed_everything(0, verbose=False)
        task = VQVAETraining(copy.deepcopy(codec), linearity=0.05)
        options = {"max_steps": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        trainer = Trainer(default_root_dir=tmp_path / used, precision=used, callbacks=[Remember()], **options)
        loaders = {name: DataLoader([batch], batch_size=None) for name in ("train_dataloaders", "val_dataloaders")}
        trainer.fit(task, **loaders)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # rounding to 1/256 in about twelve layers
    tensors = load_file(tmp_path / f"{precision}/codec/{WEIGHTS_FILE}")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_statistics_of_the_codebook_stay_in_float32():
    """A moving average with relative updates of 1/100 would stall in bfloat16, whose relative step is 1/256 or more."""
    torch.manual_seed(0)
    latents = torch.randn(50, 64, 3, 5).bfloat16()
    exact, converted = VectorQuantizer(8, 3), VectorQuantizer(8, 3)
    converted.load_state_dict(exact.state_dict())
    converted = converted.bfloat16()
    assert {tensor.dtype for tensor in converted.state_dict().values()} == {torch.float32}
    for batch in latents:
        torch.manual_seed(1)
        expected = exact(batch.float())
        torch.manual_seed(1)
        result = converted(batch)
        assert torch.equal(result.codes, expected.codes)
        assert result.quantized.dtype == torch.bfloat16
    for name, tensor in exact.state_dict().items():  # identical float32 operations on identical numbers
        torch.testing.assert_close(converted.state_dict()[name], tensor, rtol=1e-5, atol=1e-5)
    assert VectorQuantizer(8, 3).to("meta").codebook.device.type == "meta"


def test_a_prior_that_was_made_in_bfloat16_is_exported_in_it(tmp_path):
    codec = codec_folder(tmp_path)

    module, data = stage_of("prior", codec)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=tmp_path / "run", max_epochs=1, **quiet)
    trainer.fit(PriorTraining(module.artifact.bfloat16()), data)
    tensors = load_file(tmp_path / f"run/prior/{WEIGHTS_FILE}")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


# Settings and codes


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        *((stage, {"learning_rate": value}) for stage in TRAININGS for value in (0.0, -1e-3, math.nan, math.inf)),
        *((stage, {"warmup_steps": -1}) for stage in TRAININGS),
        ("prior", {"weight_decay": -0.1}),
        ("prior", {"weight_decay": math.nan}),
        *(("codec", {"mixture_share": value}) for value in (-0.1, 1.1, math.nan)),
        *(("codec", {name: value}) for name in ("commitment", "linearity") for value in (-1.0, math.inf)),
        *(("features", {"temperature": value}) for value in (0.0, -1.0, math.nan)),
    ],
    ids=str,
)
def test_settings_without_a_meaning_are_refused(stage, options, tmp_path):
    (name,) = options
    with pytest.raises(LassError, match=f"^{name} must be a"):
        stage_of(stage, codec_folder(tmp_path), **options)


def test_batches_of_nothing_are_refused(tmp_path):
    for batch_size in (0, -1):
        with pytest.raises(LassError, match="batch_size must be an integer, at least 1"):
            EncodedSources(Noise(), codec_folder(tmp_path), batch_size)


def rows(*values):
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"noise",
        "half",
        rows([0, 1, 2, NUM_CODES, 0]),
        rows([0, 1, 2, -1, 0]),
        rows([-5, 1, 2, 3, 0]),
        rows([0]),
        np.zeros((0, 5), np.int32),
        np.zeros((3, 5)),
        np.zeros(5, np.int32),
        np.array([{"a": 1}], dtype=object),
    ],
    ids=str,
)
def test_damaged_codes_are_made_again(damaged, tmp_path, caplog):
    caplog.set_level("INFO")
    fit("prior", tmp_path / "run", max_epochs=1)
    path = next((tmp_path / "run/codes").glob("*-train-*"))
    whole = path.read_bytes()
    if isinstance(damaged, np.ndarray):
        np.save(path, damaged)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damaged == "half" else damaged)
    with pytest.raises(LassError, match=f"{path.name} holds no codes") as error:
        CodeShard(path, NUM_CODES)
    assert "\n" not in str(error.value)
    fit("prior", tmp_path / "run", max_epochs=1)
    assert path.read_bytes() == whole
    assert f"{path.name} holds no codes" in caplog.text


def test_codes_at_the_limits_are_read(tmp_path):
    codes = torch.tensor([[0, NUM_CODES - 1], [1, 2]])
    write_codes(tmp_path / "codes.npy", [CodeSequences(codes, torch.tensor([0, 7]))])
    shard = CodeShard(tmp_path / "codes.npy", NUM_CODES)
    assert torch.equal(shard.__getitems__([0, 1]).codes, codes)


def test_the_exported_description_is_complete(tmp_path):
    """An exported artefact can be loaded from its folder alone, also after a conversion of precision."""
    module, _ = fit("codec", tmp_path / "run", precision="bf16-true", max_epochs=1)
    facts = json.loads((tmp_path / f"run/codec/{CONFIG_FILE}").read_text())
    assert facts["config"] == module.artifact.config
    assert isinstance(load_artifact(tmp_path / "run/codec", "codec"), ImageVQVAE)


def quiet_trainer(root, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=root, **{**quiet, **options})


@pytest.mark.parametrize("weights", [None, [0.7, 0.2]])
def test_counted_mixtures_have_the_weights_of_the_data(weights, tmp_path):
    task = LikelihoodCounting(codec_folder(tmp_path), latents=True, symmetric=weights is None)
    data, same = (Noise(tuples=True, batch_size=24, weights=weights) for _ in range(2))
    seed_everything(0, verbose=False)
    quiet_trainer(tmp_path / "run", max_epochs=1, limit_val_batches=0).fit(task, data)
    seed_everything(0, verbose=False)
    (batch,) = same.train_dataloader()
    first, second = batch.signals.unbind(1)
    gains = weights or [0.5, 0.5]
    mixture = gains[0] * first + gains[1] * second
    codec = task.codec
    triples = torch.stack([codec.encode(x).flatten() for x in (first, second, mixture)], 1)
    if weights is None:  # counted in both orders
        triples = torch.cat([triples, triples[:, [1, 0, 2]]])
    expected = {tuple(triple) for triple in triples.tolist()}
    likelihood = task.counts.likelihood()
    every = torch.cartesian_prod(*(torch.arange(NUM_CODES) for _ in range(3)))
    counted = likelihood.contains(*every.unbind(1))
    # Rounding can change a code only where two are equally near.
    assert {tuple(triple) for triple in every[counted].tolist()} == expected
    sums = task.merged["latents.safetensors"].state_dict()["sums"].sum(0)
    latents = codec.encode_latents(mixture).double()
    torch.testing.assert_close(sums.double(), latents.sum((0, 2, 3)).detach(), rtol=1e-4, atol=1e-3)


def test_both_orders_of_unequal_weights_are_not_counted(tmp_path):
    task = LikelihoodCounting(codec_folder(tmp_path))
    with pytest.raises(LassError, match=r"weights, but the data's are 0.7, 0.3: set --model.symmetric=false"):
        quiet_trainer(tmp_path / "run", max_epochs=1).fit(task, Noise(tuples=True, weights=[0.7, 0.3]))


def test_codecs_of_more_sources_than_weights_are_refused(tmp_path):
    task = VQVAETraining(ImageVQVAE((1, 8, 8), NUM_CODES, width=8, latent_dim=4), linearity_sources=3)
    with pytest.raises(LassError, match=r"weights of 2 sources, but linearity_sources is 3: make it smaller"):
        quiet_trainer(tmp_path / "run", max_epochs=1).fit(task, Noise(weights=[0.7, 0.3]))


def test_a_codec_of_three_sources_is_trained_and_validated_on_their_mixtures(tmp_path, monkeypatch):
    """Mixtures have the data's weights, and validation mixtures have three sources."""
    task = VQVAETraining(ImageVQVAE((1, 8, 8), NUM_CODES, width=8, latent_dim=4), linearity=0.1, linearity_sources=3)
    data, same = (Noise(num_sources=3, weights=[0.5, 0.3, 0.2], batch_size=12) for _ in range(2))
    encoded = []
    encode = task.artifact.encode
    monkeypatch.setattr(task.artifact, "encode", lambda signals: encoded.append(signals) or encode(signals))
    quiet_trainer(tmp_path / "run", max_epochs=1).fit(task, data)
    (batch,) = same.val_dataloader()
    sources, mixtures = encoded[-2:]
    assert torch.equal(sources, batch.signals)
    for i in range(12):
        expected = 0.5 * sources[i] + 0.3 * sources[i - 1] + 0.2 * sources[i - 2]
        torch.testing.assert_close(mixtures[i], expected, atol=1e-6, rtol=0)  # a few roundings of numbers below 1


def test_moments_of_pairs_are_for_two_sources(tmp_path):
    task = LikelihoodCounting(codec_folder(tmp_path), latents=True)
    with pytest.raises(LassError, match=r"are for two sources, but the data mixes 3: set --model.latents=false and"):
        quiet_trainer(tmp_path / "run", max_epochs=1).fit(task, Noise(tuples=True, num_sources=3, batch_size=4))


def test_counts_of_partial_mixtures_are_archived_by_the_next_counting(tmp_path):
    for _ in range(2):
        task = LikelihoodCounting(codec_folder(tmp_path))
        data = Noise(tuples=True, num_sources=3, batch_size=4)
        quiet_trainer(tmp_path / "run", max_epochs=1).fit(task, data)
    for name in ("counts.safetensors", "counts_3.safetensors"):
        assert (tmp_path / "run" / name).exists()
        assert (tmp_path / "run" / "previous" / name).exists()
