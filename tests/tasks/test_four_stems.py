"""All four stages with four stems, some of them silent or missing, by the commands in experiments/slakh/four.yaml."""

from __future__ import annotations

import csv
import json
import re
import shlex

import pytest
import torch
from conftest import REPOSITORY
from tiny_datasets import write_tiny_band

from lass import Separator
from lass.cli.main import main
from lass.data.audio.slakh import Slakh
from lass.likelihood import AdditiveLikelihood
from lass.metrics import si_sdr_improvement
from lass.report.results import ResultsFolder

SLAKH = REPOSITORY / "experiments" / "slakh"
BAND = ["drums", "bass", "guitar", "piano"]
RATE = 22050
SECONDS = 0.25  # 44 codes

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
TWO_STEPS = ["--trainer.max_steps=2", "--trainer.val_check_interval=1"]
CHUNKS = [f"--data.seconds={SECONDS}"]
SHORT = {
    "train-vqvae": ["--data.batch_size=4", "--model.codec.init_args.width=8", "--model.codec.init_args.num_codes=16"],
    "train-prior": [
        "--data.batch_size=1",
        f"--data.sources.init_args.seconds={SECONDS}",
        f"--data.sources.init_args.hop_seconds={SECONDS}",
        *(f"--model.prior.init_args.{size}" for size in ("dim=8", "num_heads=2", "num_layers=1", "num_codes=16")),
        "--model.prior.init_args.num_positions=44",
    ],
    "count": ["--data.batch_size=2", f"--data.hop_seconds={SECONDS}", *CHUNKS],
    "eval-slakh": ["--data.batch_size=3", "--model.sampler.init_args.num_candidates=4", *CHUNKS],
}
SHORT["train-vqvae"] += [*TWO_STEPS, *CHUNKS]
SHORT["train-prior"] += TWO_STEPS


def documented():
    """Options of the `make` commands at the top of four.yaml, by target."""
    head = (SLAKH / "four.yaml").read_text().partition("\ntrainer:")[0]
    return {target: shlex.split(options) for target, options in re.findall(r'make (\S+)[^"]*? ARGS="([^"]*)"', head)}


def run(target, *options, source=None):
    """Run the stage of a target, with its documented options and at reduced size."""
    stage = {"train-vqvae": "vqvae", "train-prior": "prior", "count": "likelihood", "eval-slakh": "separate"}[target]
    words = ["predict" if stage == "separate" else "fit", "-c", str(SLAKH / f"{stage}.yaml"), *documented()[target]]
    words = [str(REPOSITORY / word) if word.startswith("experiments/") else word for word in words]
    if source:
        words += [f"--data.sources.init_args.source={source}"]
        words += [f"--trainer.default_root_dir=runs/slakh/prior-{source}"]
    main([*words, *QUIET, *SHORT[target], *options])


@pytest.fixture
def band(tmp_path, monkeypatch):
    """Folder of the runs, in which the first two stages can start; the second test song has no guitar and no piano."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    return write_tiny_band(tmp_path, seconds=1.0)


@pytest.mark.slow
def test_four_stems_are_separated_from_end_to_end(band, capsys):
    run("train-vqvae")
    for source in BAND:
        run("train-prior", source=source)
    run("count")
    tables = {path.name for path in (band.parent / "runs" / "slakh" / "likelihood").glob("*.safetensors")}
    assert tables == {"counts.safetensors", "counts_3.safetensors", "counts_4.safetensors", "additive.safetensors"}
    run("eval-slakh")
    root = band.parent / "runs" / "slakh" / "four"
    separator = Separator.from_pretrained(root / "separator")
    assert separator.source_names == BAND
    assert len(separator.priors) == 4
    assert isinstance(separator.likelihood, AdditiveLikelihood)
    with open(root / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # The first song has four chunks, in one of which the drums are silent. The second song has drums and bass only,
    # and three chunks in which both sound.
    assert len(rows) == 4 + 3
    summary = json.loads((root / "summary.json").read_text())
    assert summary["si_sdri_db"]["num"] == 7
    assert summary["sdr_db"]["num"] <= 3  # of all four sources
    for row in rows:
        each = [float(row[f"si_sdri_{source}_db"]) for source in BAND]
        assert float(row["si_sdri_db"]) == pytest.approx(sum(each) / 4, abs=1e-3)
    data = Slakh(classes=BAND, seconds=SECONDS, silence_db=-47.0, least_active=2, sample_rate=RATE)
    sources = data.predict_dataloader().dataset.__getitems__(list(range(7))).signals[:, :, 0]
    estimates = torch.stack([ResultsFolder(root).read(i)[0]["estimates"] for i in range(7)])[:, :, 0]
    expected = si_sdr_improvement(estimates, sources, sources.sum(1), RATE)
    found = torch.tensor([[float(row[f"si_sdri_{source}_db"]) for source in BAND] for row in rows])
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)
    for source in BAND:
        mean = sum(float(row[f"si_sdri_{source}_db"]) for row in rows) / len(rows)
        assert summary[f"si_sdri_{source}_db"]["mean"] == pytest.approx(mean, abs=1e-3)
    said = capsys.readouterr().out
    assert "Separated 7 mixtures of 4 sources each." in said
    assert "estimates of guitar" in said
    assert (root / "separations.png").read_bytes().startswith(b"\x89PNG")


def test_a_stem_that_a_split_lacks_is_named(tmp_path, monkeypatch):
    """No validation song has a piano, so neither codec nor prior could be validated on it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    write_tiny_band(tmp_path, seconds=1.0, without_piano=("validation/Track00000", "validation/Track00001"))
    reason = "The validation songs in .* have no chunk of 0.24.* s in which piano is louder than -45.0 dB"
    with pytest.raises(SystemExit) as error:
        run("train-vqvae")
    said = str(error.value)
    assert re.fullmatch(f"lass: {reason}.", said)
