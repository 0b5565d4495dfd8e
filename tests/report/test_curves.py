"""Training curves from CSV logs: the last training only, also if it was resumed or killed."""

from __future__ import annotations

import pytest
from pytorch_lightning.loggers import CSVLogger

from lass import LassError
from lass.report.curves import LOG_FOLDER, training_curves


def log(folder, epochs, losses, steps_per_epoch=10, stage="prior", name="val/nats_per_code"):
    """One run of a stage, with a score after each epoch; returns its file."""
    logger = CSVLogger(folder / stage, LOG_FOLDER)
    for epoch, loss in zip(epochs, losses, strict=True):
        step = (epoch + 1) * steps_per_epoch - 1
        logger.log_metrics({name: loss, "epoch": epoch}, step)
    logger.finalize("success")
    return folder / stage / LOG_FOLDER / f"version_{logger.version}" / "metrics.csv"


def drawn(folder):
    (axes,) = training_curves(folder).axes
    (line,) = axes.lines
    return [tuple(point) for point in line.get_xydata().tolist()]


def test_a_resumed_training_is_one_curve_and_an_earlier_one_is_left_out(tmp_path):
    log(tmp_path, [0, 1, 2], [9.0, 8.0, 7.0])  # an earlier training
    log(tmp_path, [0, 1, 2], [3.0, 2.0, 1.9])  # stopped after its third epoch, but the checkpoint is of the second
    log(tmp_path, [2, 3], [1.5, 1.25])
    assert drawn(tmp_path) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.5), (4.0, 1.25)]


def test_logs_are_read_in_the_order_of_their_versions(tmp_path):
    for index in range(11):  # version_10 comes after version_9
        log(tmp_path, [index], [float(index)])
    assert drawn(tmp_path) == [(index + 1.0, float(index)) for index in range(11)]


def test_a_log_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    file = log(tmp_path, [0, 1, 2], [3.0, 2.0, 1.0])
    whole = file.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    file.write_bytes(whole[: ends[2] + 3])  # the header, two rows, and the beginning of the third
    assert drawn(tmp_path)[:2] == [(1.0, 3.0), (2.0, 2.0)]


def test_audio_has_its_own_score_and_each_source_its_prior(tmp_path):
    log(tmp_path, [0, 1], [4.0, 5.0], stage="vqvae", name="val/si_sdr_sources_db")
    for source in ("drums", "bass"):
        log(tmp_path, [0, 1], [3.0, 2.0], stage=f"prior-{source}")
    titles = [axes.get_title() for axes in training_curves(tmp_path).axes]
    assert titles == ["codec: SI-SDR in dB", "prior: nats per code (bass)", "prior: nats per code (drums)"]


def test_no_log_is_said_so(tmp_path):
    with pytest.raises(LassError, match="No stage has left a log"):
        training_curves(tmp_path)
