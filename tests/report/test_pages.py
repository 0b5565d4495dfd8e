"""Logged content of every stage: in Weights & Biases, read back from the offline log, and in other loggers."""

from __future__ import annotations

import csv
import json
import re

import pytest
from chain import SMALL, lass
from offline_runs import read_offline_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_runs import finish_run

from lass.artifacts import fingerprint
from lass.cli.main import main
from lass.codecs import load_codec
from lass.report.results import ResultsFolder

PAGES = {
    "vqvae": {
        "numbers": ["train/loss", "train/learning_rate", "val/psnr_sources_db", "codebook/perplexity", "codebook/used"],
        "histograms": ["codebook/use_of_codes"],
        "images": ["val/reconstructions"],
        "directions": {"val/psnr_db": "max", "val/psnr_sources_db": "max", "codebook/perplexity": "max"},
    },
    "prior": {
        "numbers": ["train/nats_per_code", "train/learning_rate", "val/nats_per_code"],
        "histograms": [],
        "images": ["val/samples"],
        "directions": {"val/nats_per_code": "min"},
    },
    "likelihood": {
        "numbers": [
            "likelihood/density_percent",
            "likelihood/num_pairs_seen",
            "val/coverage",
            "val/log_likelihood_per_code",
        ],
        "histograms": ["likelihood/nonzeros_per_mixture_code"],
        "images": [],
        "directions": {"val/coverage": "max", "val/mixtures_fully_covered": "max"},
    },
    "separate": {
        "numbers": ["separation/psnr_db/mean", "separation/average_psnr_db/mean", "separation/entropy"],
        "histograms": ["separation/entropy_of_positions", "separation/psnr_db_of_mixtures"],
        "images": ["separation/examples", "separation/entropy_map"],
        "directions": {"separation/psnr_db/mean": "max", "separation/codec_psnr_db/mean": "max"},
    },
}


@pytest.mark.parametrize("stage", SMALL)
def test_the_page_of_every_stage_is_complete(chain, stage):
    """The offline run has all scores in named groups, with tags and with directions."""
    run = read_offline_runs(chain / "runs" / "digits" / stage)[0]
    assert (run.group, run.job_type) == ("digits", stage)
    codec = fingerprint(load_codec("runs/digits/vqvae/codec"))
    assert run.tags == ["digits", stage, f"codec-{codec}"]  # the tag shared by all four stages
    assert run.config["model"]["class_path"].startswith("lass.tasks.")
    page = PAGES[stage]
    assert page["directions"].items() <= run.directions.items()
    assert set(run.directions) - {"val/nats_per_code_any_class"} <= set(run.history)  # logged only with class dropout
    for key in page["numbers"]:
        assert isinstance(run.history[key][-1], float | int), key
    for key in page["histograms"]:
        assert run.history[f"{key}/_type"][-1] == "histogram"
        heights, edges = run.history[f"{key}/values"][-1], run.history[f"{key}/bins"][-1]
        assert len(edges) == len(heights) + 1
        assert sum(heights) > 0
    for key in page["images"]:
        for name in run.history[f"{key}/filenames"][-1]:
            assert (run.folder / "files" / name).read_bytes().startswith(b"\x89PNG")
    groups = {name.partition("/")[0] for name in run.history if "/" in name}
    assert groups <= {"train", "val", "codebook", "likelihood", "separation", "trainer"}


def test_images_say_what_they_show(chain):
    captions = {
        stage: read_offline_runs(chain / "runs" / "digits" / stage)[0].history[f"{key}/captions"][-1]
        for stage, key in (("vqvae", "val/reconstructions"), ("separate", "separation/examples"))
    }
    assert len(captions["vqvae"]) == 12
    parts = r"source \| reconstruction \| mixture \| its reconstruction: [\d.]+ and [\d.]+ dB"
    assert all(re.fullmatch(parts, caption) for caption in captions["vqvae"])
    rows = [ResultsFolder("runs/digits/separate").read(index)[1] for index in range(6)]
    rows.sort(key=lambda row: -row["psnr_db"])
    columns = "mixture | estimate 1 | estimate 2 | source 1 | source 2 | |residual|"
    assert captions["separate"] == [f"{columns}: #{row['mixture']}, {row['psnr_db']:.1f} dB" for row in rows]


def test_the_table_of_mixtures_has_their_images_and_scores(chain):
    files = read_offline_runs(chain / "runs" / "digits" / "separate")[0].artifacts["run_table"]
    table = json.loads(files["separation/mixtures.table.json"].read_text())
    assert table["columns"][:3] == ["images", "mixture", "psnr_db"]
    assert len(table["data"]) == 6
    for index, row in enumerate(table["data"]):
        assert files[row[0]["path"]].read_bytes().startswith(b"\x89PNG")
        assert row[1:3] == [index, ResultsFolder("runs/digits/separate").read(index)[1]["psnr_db"]]


def test_the_page_of_a_method_without_codes_has_scores_and_pictures(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = repository / "experiments" / "digits"
    layers = ["-c", str(folder / "separate.yaml"), "-c", str(folder / "methods/average.yaml")]
    try:
        main(
            ["predict", *layers, "--data.mixtures=null", "--data.num_mixtures=5", "--trainer.enable_progress_bar=false"]
        )
    finally:
        finish_run()
    (run,) = read_offline_runs(tmp_path / "runs/digits/average")
    assert (run.group, run.job_type, run.tags) == ("digits", "average", ["digits", "average"])
    assert run.directions == {f"separation/{score}/mean": "max" for score in ("psnr_db", "average_psnr_db")}
    rows = [ResultsFolder("runs/digits/average").read(index)[1] for index in range(5)]
    mean = sum(row["psnr_db"] for row in rows) / 5
    assert run.history["separation/psnr_db/mean"] == [pytest.approx(mean)]
    assert sum(run.history["separation/psnr_db_of_mixtures/values"][-1]) == 5
    assert len(run.history["separation/examples/filenames"][-1]) == 5
    assert not [name for name in run.history if "entropy" in name or "codec" in name or "unseen" in name]
    table = json.loads(run.artifacts["run_table"]["separation/mixtures.table.json"].read_text())
    assert table["columns"] == ["images", *rows[0]]
    assert [row[1:] for row in table["data"]] == [[*row.values()] for row in rows]


#: Options for runs that are shorter than those of `chain`.
SHORT = {
    "vqvae": ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"],
    "prior": ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"],
    "likelihood": ["--trainer.max_epochs=1"],
    "separate": ["--data.num_mixtures=2", "--model.sampler.num_candidates=8", "--model.refinement.steps=1"],
}


@pytest.mark.parametrize(
    ("logger", "written"),
    [("CSVLogger", "metrics.csv"), ("TensorBoardLogger", "events.out.tfevents*")],
)
@pytest.mark.parametrize("stage", SMALL)
def test_other_loggers_are_a_one_line_override(chain, repository, stage, logger, written):
    folder = chain / "runs" / logger / stage
    override = [f"--trainer.logger=pytorch_lightning.loggers.{logger}", f"--trainer.logger.save_dir={folder}"]
    lass(repository, stage, *SHORT[stage], *override, f"--trainer.default_root_dir={folder}")
    (file,) = folder.rglob(written)
    assert not list(folder.rglob("wandb"))
    if logger == "CSVLogger":
        with open(file, newline="") as opened:
            names = set(next(csv.reader(opened)))
    else:
        events = EventAccumulator(str(file)).Reload().Tags()
        names = {*events["scalars"], *events["images"], *events["histograms"]}
        for kind, key in (("images", "images"), ("histograms", "histograms")):
            assert set(PAGES[stage][key]) <= set(events[kind])
    assert set(PAGES[stage]["numbers"]) <= names
