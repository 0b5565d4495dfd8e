"""Training curves from offline logs: only the last training is plotted, also if it was resumed or killed."""

from __future__ import annotations

import pytest
from wandb_runs import finish_run

from lass import LassError
from lass.report.curves import training_curves
from lass.report.offline_runs import read_offline_runs
from lass.report.wandb_logger import WandbLogger


def log(folder, epochs, losses, steps_per_epoch=10, stage="prior", name="val/nats_per_code"):
    """Log one offline run of a stage, with a score after each epoch."""
    logger = WandbLogger("digits", stage, save_dir=str(folder / stage))
    for epoch, loss in zip(epochs, losses, strict=True):
        step = (epoch + 1) * steps_per_epoch - 1
        logger.log_metrics({name: loss, "epoch": epoch}, step)
    finish_run()


def drawn(folder):
    (axes,) = training_curves(folder).axes
    (line,) = axes.lines
    return [tuple(point) for point in line.get_xydata().tolist()]


def test_a_resumed_training_is_one_curve_and_an_earlier_one_is_left_out(tmp_path):
    log(tmp_path, [0, 1, 2], [9.0, 8.0, 7.0])  # an earlier training
    log(tmp_path, [0, 1, 2], [3.0, 2.0, 1.9])  # stopped after the third epoch; the checkpoint is of the second
    log(tmp_path, [2, 3], [1.5, 1.25])
    assert drawn(tmp_path) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.5), (4.0, 1.25)]


def test_runs_that_began_in_one_second_keep_their_order(tmp_path):
    """Runs with equal start seconds are sorted by nanoseconds, as their folders differ in a random suffix only."""
    for index in range(3):
        log(tmp_path, [0], [float(index)])
    runs = tmp_path / "prior" / "wandb"
    folders = sorted(runs.glob("offline-run-*"), key=lambda folder: folder.stat().st_mtime_ns)
    for name, folder in zip("cab", folders, strict=True):
        folder.rename(runs / f"offline-run-20260101_000000-{name}")
    assert [run.rows[0]["val/nats_per_code"] for run in read_offline_runs(tmp_path / "prior")] == [0.0, 1.0, 2.0]


def test_a_log_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    log(tmp_path, [0, 1, 2], [3.0, 2.0, 1.0])
    (file,) = (tmp_path / "prior" / "wandb").glob("offline-run-*/run-*.wandb")
    whole = file.read_bytes()
    counts = []
    for length in range(len(whole) // 2, len(whole), 97):
        file.write_bytes(whole[:length])
        (run,) = read_offline_runs(tmp_path / "prior")
        counts.append(len(run.rows))
    assert counts == sorted(counts)
    assert counts[-1] == 3


def test_audio_has_its_own_score_and_each_source_its_prior(tmp_path):
    log(tmp_path, [0, 1], [4.0, 5.0], stage="vqvae", name="val/si_sdr_sources_db")
    for source in ("drums", "bass"):
        log(tmp_path, [0, 1], [3.0, 2.0], stage=f"prior-{source}")
    titles = [axes.get_title() for axes in training_curves(tmp_path).axes]
    assert titles == ["codec: SI-SDR in dB", "prior: nats per code (bass)", "prior: nats per code (drums)"]


def test_no_log_is_said_so(tmp_path):
    with pytest.raises(LassError, match="No stage has left an offline log"):
        training_curves(tmp_path)
