"""Separation runs of three sources: order of the estimates, mixing weights, report and distances."""

from __future__ import annotations

import csv
import itertools
import json

import pytest
import torch
from pytorch_lightning import Trainer
from toy_worlds import fitted_additive
from trainings import NUM_CODES, Noise, codec_folder

from lass import LassError, Separator, SparseCounts
from lass.codecs import load_codec
from lass.data.mixing import mix
from lass.metrics import ImageFeatures, psnr
from lass.priors import TransformerPrior
from lass.report import separation as report
from lass.report.results import ResultsFolder
from lass.samplers import SequentialMonteCarlo
from lass.separation import NoRefinement
from lass.tasks import Separation

WEIGHTS = [0.5, 0.3, 0.2]


@pytest.fixture
def parts(tmp_path):
    """Folders of a codec, a prior and an additive likelihood."""
    folder = codec_folder(tmp_path)
    codec = load_codec(folder)
    torch.manual_seed(0)
    prior = TransformerPrior(NUM_CODES, 4, 8, num_layers=1, num_heads=2)
    prior.save_pretrained(tmp_path / "prior")
    signals = torch.rand(30, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    fitted_additive(codec, signals).save(tmp_path / "likelihood.safetensors")
    return {
        "codec": folder,
        "priors": str(tmp_path / "prior"),
        "likelihood": str(tmp_path / "likelihood.safetensors"),
        "sampler": SequentialMonteCarlo(4),
        "refinement": NoRefinement(),
        "num_sources": 3,
    }


def data(num_sources=3, num_mixtures=4, **options):
    return Noise(batch_size=3, num_sources=num_sources, num_mixtures=num_mixtures, **options)


def predict(parts, module, root):
    """Separate the mixtures of a data module, and return the results folder."""
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(default_root_dir=root, **quiet).predict(Separation(**parts), module)
    return ResultsFolder(root)


def sources_of(module):
    return torch.cat([batch.signals for batch in module.predict_dataloader()])


@pytest.mark.parametrize("weights", [None, WEIGHTS, [0.4, 0.2, 0.4]], ids=str)
def test_estimates_have_the_best_order_and_mixtures_the_weights_of_the_data(parts, tmp_path, weights, capsys):
    """Only sources of equal weight are exchanged."""
    results = predict(parts, data(weights=weights), tmp_path / "run")
    sources = sources_of(data(weights=weights))
    mixtures = mix(sources, weights)
    separator = Separator.from_pretrained(results.root / "separator")
    assert separator.mixing_weights == weights
    assert len(separator.priors) == 3
    expected = separator.separate_batch(mixtures)
    group = separator.exchangeable(None, 1)[0]
    orders = [list(order) for order in itertools.permutations(range(3)) if torch.equal(group[list(order)], group)]
    assert len(orders) == {None: 6, 0.5: 1, 0.4: 2}[weights and weights[0]]
    for i in range(4):
        tensors, row = results.read(i)
        best = max(orders, key=lambda order: psnr(expected.estimates[i, order], sources[i]).mean().item())
        # Batches of three and of four mixtures round differently.
        torch.testing.assert_close(tensors["estimates"], expected.estimates[i, best], atol=1e-4, rtol=0)
        assert torch.equal(tensors["codes"], expected.codes[i, best])
        scores = psnr(tensors["estimates"], sources[i])
        assert row["psnr_db"] == pytest.approx(scores.mean().item(), abs=1e-3)
        assert [row[f"psnr_{source}_db"] for source in (1, 2, 3)] == pytest.approx(scores.tolist(), abs=1e-3)
        average = psnr(mixtures[i].expand(3, -1, -1, -1), sources[i]).mean().item()
        assert row["average_psnr_db"] == pytest.approx(average, abs=1e-3)
        residual = mixtures[i] - mix(tensors["estimates"][None], weights)[0]
        assert row["residual_rms"] == pytest.approx(residual.square().mean().sqrt().item(), abs=1e-4)
    assert "Separated 4 mixtures of 3 sources each." in capsys.readouterr().out
    assert results.figure.read_bytes().startswith(b"\x89PNG")
    with open(results.root / "results.csv", newline="") as file:
        assert {"psnr_1_db", "psnr_2_db", "psnr_3_db"} <= set(next(csv.reader(file)))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=str)
def test_pictures_show_every_source_and_the_weighted_mixture(parts, tmp_path, monkeypatch, weights):
    pictured = []
    draw = report._figure
    monkeypatch.setattr(report, "_figure", lambda columns, *rest: pictured.append(columns) or draw(columns, *rest))
    results = predict({**parts, "source_names": list("abc")}, data(weights=weights), tmp_path / "run")
    (columns,) = pictured
    kinds = [f"{kind} {name}" for kind in ("estimate", "source") for name in "abc"]
    assert list(columns) == ["mixture", *kinds, "|residual|"]
    rows = sorted((results.read(i)[1] for i in range(4)), key=lambda row: -row["psnr_db"])
    order = [row["mixture"] for row in rows]
    sources = sources_of(data(weights=weights))[order]
    estimates = torch.stack([results.read(index)[0]["estimates"] for index in order])
    torch.testing.assert_close(columns["mixture"], mix(sources, weights))
    torch.testing.assert_close(columns["source c"], sources[:, 2])
    torch.testing.assert_close(columns["estimate b"], estimates[:, 1])
    torch.testing.assert_close(columns["|residual|"], (mix(sources, weights) - mix(estimates, weights)).abs())
    assert json.loads((results.root / "settings.json").read_text()).get("mixing_weights") == weights


def test_mixtures_without_one_of_the_scores_are_separated_again(parts, tmp_path):
    """A folder of an earlier version, which had fewer scores, is completed."""
    results = predict(parts, data(), tmp_path / "run")
    (tensors, row), (_, other) = results.read(1), results.read(2)
    results.write(1, tensors, {name: value for name, value in row.items() if name != "codec_psnr_db"})
    results.write(2, results.read(2)[0], {**other, "residual_rms": -1.0})  # to see that it is kept
    assert results.has(1)
    assert not results.has(1, ["psnr_db", "codec_psnr_db"])
    assert results.has(2, ["psnr_db", "codec_psnr_db"])
    predict(parts, data(), tmp_path / "run")
    assert results.read(1)[1] == pytest.approx(row, abs=1e-3)
    assert results.read(2)[1]["residual_rms"] == -1.0


def test_results_of_other_weights_or_sources_are_refused(parts, tmp_path):
    predict(parts, data(weights=WEIGHTS), tmp_path / "run")
    for module in (data(), data(weights=[0.5, 0.25, 0.25])):
        with pytest.raises(LassError, match=r"results made with other settings \(mixing_weights\): choose another"):
            predict(parts, module, tmp_path / "run")
    predict(parts, data(), tmp_path / "mean")
    with pytest.raises(LassError, match=r"results made with other settings \(mixing_weights\): choose another"):
        predict(parts, data(weights=WEIGHTS), tmp_path / "mean")
    with pytest.raises(LassError, match=r"results made with other settings \(prior_3\): choose another"):
        predict({**parts, "num_sources": 2}, data(2), tmp_path / "mean")


def test_data_of_another_number_of_sources_is_refused_with_the_option_to_set(parts, tmp_path):
    for num_sources, there in ((3, 2), (None, 3), (4, 3)):
        expected = (
            f"mixes {there} sources, but the separator is for {num_sources or 2}: set --model.num_sources={there}"
        )
        with pytest.raises(LassError, match=expected):
            predict({**parts, "num_sources": num_sources}, data(there), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(LassError, match="num_sources must be an integer"):
        Separation(**{**parts, "num_sources": 0})
    counts = SparseCounts(NUM_CODES)
    counts.add(*torch.randint(NUM_CODES, (3, 100)))
    counts.save(tmp_path / "counts.safetensors")
    with pytest.raises(LassError, match="SparseLikelihood is for 2 sources"):
        Separation(**{**parts, "likelihood": str(tmp_path / "counts.safetensors")})


def test_one_prior_per_source_gives_the_number_of_sources(parts, tmp_path):
    folders = [parts["priors"]] * 2 + [str(tmp_path / "other")]
    prior = TransformerPrior(NUM_CODES, 4, 8, num_layers=2, num_heads=2)
    prior.save_pretrained(folders[2])
    results = predict({**parts, "priors": folders, "num_sources": None}, data(), tmp_path / "run")
    settings = json.loads((results.root / "settings.json").read_text())
    assert settings["prior_1"] == settings["prior_2"] != settings["prior_3"]
    separator = Separator.from_pretrained(results.root / "separator")
    assert separator.exchangeable(None, 1).tolist() == [[0, 0, 2]]


def test_distances_need_fewer_mixtures_of_more_sources(parts, tmp_path, caplog):
    """Each mixture has three images, of which a distance on five features needs six."""
    caplog.set_level("INFO")
    ImageFeatures(num_features=5, width=8).save_pretrained(tmp_path / "features")
    parts["features"] = str(tmp_path / "features")
    results = predict(parts, data(num_mixtures=2), tmp_path / "enough")
    assert "frechet_small" in json.loads((results.root / "summary.json").read_text())
    assert "There will be no" not in caplog.text
    results = predict(parts, data(num_mixtures=1), tmp_path / "too-few")
    said = " ".join(caplog.text.split())
    assert "There will be no frechet_small: it needs at least 6 images, so 2 mixtures, and this run has 1." in said
    assert "frechet_small" not in json.loads((results.root / "summary.json").read_text())
