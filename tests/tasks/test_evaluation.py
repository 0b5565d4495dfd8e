"""Evaluation of any separation method: scores, order of the estimates, resumption, refusals and report."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from pytorch_lightning import Trainer
from tiny_datasets import write_tiny_slakh
from torch import nn
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio
from toy_worlds import fitted_additive
from trainings import NUM_CODES, Noise, codec_folder

from lass import LassError, SeparationResult, Separator
from lass.codecs import load_codec
from lass.data.audio.slakh import Slakh
from lass.data.mixing import mix
from lass.methods import Average
from lass.metrics import ImageFeatures
from lass.priors import TransformerPrior
from lass.report.results import ResultsFolder
from lass.samplers import SequentialMonteCarlo
from lass.separation import NoRefinement
from lass.tasks import Evaluation, Separation


def noise(num_sources=2, num_mixtures=5, **options):
    return Noise(batch_size=2, num_sources=num_sources, num_mixtures=num_mixtures, **options)


def predict(module, data, root, **options):
    """Run stage 4, and return the results folder."""
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", **options}
    Trainer(default_root_dir=root, **quiet).predict(module, data)
    return ResultsFolder(root)


def sources_of(data):
    return torch.cat([batch.signals for batch in data.predict_dataloader()])


class Oracle:
    """Gives the true sources of the noise data, in reversed order and with an error that differs by source."""

    def __init__(self, data, error=0.1):
        self._sources, self.error, self._indices = sources_of(data), error, []

    def separate_batch(self, mixtures, conditions=None, *, seed=0, indices=None):
        self._indices += indices
        sources = self._sources[indices]
        sizes = self.error * torch.arange(1.0, sources.shape[1] + 1).view(-1, 1, 1, 1)
        return SeparationResult((sources + sizes * (2 * (sources < 0.5) - 1)).flip(1))


class WithRoles(Oracle):
    """The same, with estimates that are not exchangeable."""

    def exchangeable(self, conditions, num_mixtures):
        return torch.arange(self._sources.shape[1]).expand(num_mixtures, -1)


def test_average_has_the_scores_of_the_average_baseline(tmp_path, capsys):
    results = predict(Evaluation(Average()), noise(), tmp_path / "run")
    sources = sources_of(noise())
    errors = (sources.mean(1, keepdim=True) - sources).square().flatten(2).mean(2)
    expected = (-10 * errors.log10()).mean(1)  # PSNR, peak 1
    with open(results.root / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["mixture", "psnr_db", "average_psnr_db", "psnr_1_db", "psnr_2_db", "residual_rms", "checksum"]
    assert list(rows[0]) == columns
    for row, score in zip(rows, expected.tolist(), strict=True):
        assert float(row["psnr_db"]) == pytest.approx(score, abs=1e-3)
        assert row["psnr_db"] == row["average_psnr_db"]
        assert float(row["residual_rms"]) == pytest.approx(0, abs=1e-6)
    summary = json.loads((results.root / "summary.json").read_text())
    assert set(summary) == {"psnr_db", "average_psnr_db"}
    assert summary["psnr_db"]["mean"] == pytest.approx(expected.mean().item(), abs=1e-3)
    assert results.read(0)[0].keys() == {"estimates"}
    assert results.figure.read_bytes().startswith(b"\x89PNG")
    assert not results.entropy_figure.exists()
    assert not (results.root / "method").exists()
    said = capsys.readouterr().out
    assert "Separated 5 mixtures of 2 sources each." in said
    assert "codec" not in said


def test_average_of_audio_is_scored_as_audio(tmp_path, capsys):
    root = write_tiny_slakh(tmp_path)
    data = Slakh(str(root), seconds=0.5, batch_size=2, num_mixtures=3, cache=str(tmp_path / "cache"))
    results = predict(Evaluation(Average(), source_names=["drums", "bass"]), data, tmp_path / "run")
    for index, sources in enumerate(sources_of(data)):
        _, row = results.read(index)
        assert row["sdr_db"] == row["average_sdr_db"]
        expected = scale_invariant_signal_distortion_ratio(sources.mean(0, keepdim=True).expand_as(sources), sources)
        assert [row["si_sdr_drums_db"], row["si_sdr_bass_db"]] == pytest.approx(expected[:, 0].tolist(), abs=1e-3)
    assert results.figure.read_bytes().startswith(b"\x89PNG")
    assert "estimates of drums" in capsys.readouterr().out
    ImageFeatures(num_features=2, width=8).save_pretrained(tmp_path / "features")
    with pytest.raises(LassError, match=r"distances are for images, but this data is audio: set --model.fid=false"):
        predict(Evaluation(Average(), features=str(tmp_path / "features")), data, tmp_path / "other")


@pytest.mark.parametrize("num_sources", [2, 3])
def test_estimates_have_the_best_order_unless_they_have_roles(tmp_path, num_sources):
    data = noise(num_sources)
    sources = sources_of(data)
    free = predict(Evaluation(Oracle(data)), noise(num_sources), tmp_path / "free")
    fixed = predict(Evaluation(WithRoles(data)), noise(num_sources), tmp_path / "fixed")
    psnr = [-20 * torch.tensor(0.1 * (source + 1)).log10().item() for source in range(num_sources)]
    for index in range(len(sources)):
        tensors, row = free.read(index)
        assert row["psnr_db"] == pytest.approx(sum(psnr) / num_sources, abs=1e-3)
        assert [row[f"psnr_{source + 1}_db"] for source in range(num_sources)] == pytest.approx(psnr, abs=1e-3)
        torch.testing.assert_close(fixed.read(index)[0]["estimates"].flip(0), tensors["estimates"])
        residual = sources[index].mean(0) - tensors["estimates"].mean(0)
        assert row["residual_rms"] == pytest.approx(residual.square().mean().sqrt().item(), abs=1e-5)


def test_a_stopped_run_resumes_at_the_first_missing_mixture(tmp_path):
    first, second = Oracle(noise()), Oracle(noise())
    predict(Evaluation(first), noise(), tmp_path / "run", limit_predict_batches=2)
    assert first._indices == [0, 1, 2, 3]
    results = predict(Evaluation(second), noise(), tmp_path / "run")
    assert second._indices == [4]
    assert json.loads((results.root / "summary.json").read_text())["psnr_db"]["num"] == 5


def test_results_of_other_settings_methods_or_weights_are_refused(tmp_path):
    predict(Evaluation(Oracle(noise())), noise(), tmp_path / "run")
    for method, options, data, words in (
        (Oracle(noise(), error=0.2), {}, noise(), "(method.error)"),
        (Average(), {}, noise(), "(method.error, method, method.num_sources)"),
        (Oracle(noise()), {"seed": 1}, noise(), "(seed)"),
        (Oracle(noise()), {}, noise(weights=[0.7, 0.3]), "(mixing_weights)"),
    ):
        with pytest.raises(LassError) as error:
            predict(Evaluation(method, **options), data, tmp_path / "run")
        assert f"holds results made with other settings {words}: choose another folder" in str(error.value)
    predict(Evaluation(Average(), overwrite=True), noise(), tmp_path / "run")


def test_a_setting_of_the_method_may_have_the_name_of_one_of_the_run(tmp_path):
    methods = [Average(), Average()]
    methods[0].seed, methods[1].seed = 1, 2
    predict(Evaluation(methods[0]), noise(), tmp_path / "run")
    with pytest.raises(LassError, match=r"other settings \(method.seed\)"):
        predict(Evaluation(methods[1]), noise(), tmp_path / "run")


class Wrong(Average):
    """Estimates that are wrong in one way."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def separate_batch(self, mixtures, conditions=None, *, seed=0, indices=None):
        estimates = super().separate_batch(mixtures).estimates
        return SeparationResult({"nan": estimates / 0 * 0, "shape": estimates[:, :1]}[self.wrong])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("nan", "Wrong gave NaN or infinite values for mixture 0"), ("shape", r"estimates of shape \(2, 1, 1, 8, 8\)")],
)
def test_invalid_estimates_stop_the_run_and_are_not_stored(tmp_path, wrong, words):
    with pytest.raises(LassError, match=words):
        predict(Evaluation(Wrong(wrong)), noise(), tmp_path / "run")
    assert not list((tmp_path / "run").glob("mixtures/*"))


def test_a_method_for_other_data_is_refused_with_the_option_to_set(tmp_path):
    with pytest.raises(LassError, match=r"mixes 3 sources, but Average is for 2: set --model.method.num_sources=3"):
        predict(Evaluation(Average()), noise(3), tmp_path / "run")
    with pytest.raises(LassError, match="a different name for each of 2 sources, got"):
        predict(Evaluation(Average(), source_names=["a"]), noise(), tmp_path / "run")
    data = Slakh(str(write_tiny_slakh(tmp_path)), seconds=0.5, num_mixtures=1, cache=str(tmp_path / "cache"))
    method = Average()
    method.sample_rate = 8000
    words = (
        "22050 samples per second, but Average is for 8000: set the data's sample_rate to 8000, or set --model.method"
    )
    with pytest.raises(LassError, match=words):
        predict(Evaluation(method), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Scaled(nn.Module):
    """A method with weights, which can be saved, and which is told the weights of the mixture and the classes."""

    mixing_weights = None

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.conditions = []

    def separate_batch(self, mixtures, conditions=None, *, seed=0, indices=None):
        assert not self.training
        self.conditions.append(conditions)
        return SeparationResult(torch.stack([mixtures * weight * self.scale for weight in self.mixing_weights], 1))

    def save_pretrained(self, folder):
        folder.mkdir()
        (folder / "scale.txt").write_text(str(self.scale.item()))
        return folder


def test_a_module_is_saved_and_told_weights_and_classes(tmp_path):
    weights, data = [0.7, 0.3], noise(weights=[0.7, 0.3])
    method = Scaled()
    results = predict(Evaluation(method, conditional=True), data, tmp_path / "run")
    assert (results.root / "method" / "scale.txt").read_text() == "0.5"
    labels = torch.cat([batch.labels for batch in data.predict_dataloader()])
    assert torch.equal(torch.cat(method.conditions), labels)
    mixtures = mix(sources_of(data), weights)
    for index in range(5):
        found = results.read(index)[0]["estimates"].flatten(1).norm(dim=1).sort().values
        expected = torch.tensor([0.15, 0.35]) * mixtures[index].norm()
        torch.testing.assert_close(found, expected)
    settings = json.loads((results.root / "settings.json").read_text())
    assert (settings["mixing_weights"], settings["conditional"]) == (weights, True)
    assert settings["method"].endswith(".Scaled")
    other = Scaled()
    other.scale.data += 1
    with pytest.raises(LassError, match=r"other settings \(method.weights\)"):
        predict(Evaluation(other, conditional=True), data, tmp_path / "run")


def test_distances_without_a_codec_are_those_of_estimates_and_mixtures(tmp_path):
    ImageFeatures(num_features=3, width=8).save_pretrained(tmp_path / "features")
    results = predict(Evaluation(Average(), features=str(tmp_path / "features")), noise(), tmp_path / "run")
    found = json.loads((results.root / "summary.json").read_text())["frechet_small"]
    assert found["estimates"] == pytest.approx(found["mixture"], rel=1e-3, abs=1e-6)
    assert set(found) == {"estimates", "mixture"}


def test_separation_is_the_evaluation_of_a_separator(tmp_path):
    """Its settings have no name of a method, as those of earlier versions."""
    folder = codec_folder(tmp_path)
    torch.manual_seed(0)
    TransformerPrior(NUM_CODES, 4, 8, num_layers=1, num_heads=2).save_pretrained(tmp_path / "prior")
    signals = torch.rand(30, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    fitted_additive(load_codec(folder), signals).save(tmp_path / "likelihood.safetensors")
    parts = {"codec": folder, "priors": str(tmp_path / "prior"), "likelihood": str(tmp_path / "likelihood.safetensors")}
    options = {"sampler": SequentialMonteCarlo(4), "refinement": NoRefinement(), "posterior_mean": True}
    results = predict(Separation(**parts, **options), noise(), tmp_path / "separation")
    separator = Separator.from_pretrained(results.root / "separator")
    other = predict(Evaluation(separator), noise(), tmp_path / "evaluation")
    assert (other.root / "method" / "separator.json").exists()
    assert results.entropy_figure.exists()
    assert other.entropy_figure.exists()
    for index in range(5):
        (tensors, row), (same_tensors, same_row) = results.read(index), other.read(index)
        assert row == pytest.approx(same_row, abs=1e-4)
        assert {"codec_psnr_db", "best_log_posterior", "num_unseen_codes", "log_evidence"} <= row.keys()
        assert tensors.keys() == same_tensors.keys() == {"estimates", "codes", "entropy"}
    mine, evaluated = (json.loads((each.root / "settings.json").read_text()) for each in (results, other))
    assert evaluated.pop("method") == "lass.separation.separator.Separator"
    evaluated = {name.removeprefix("method."): value for name, value in evaluated.items()}
    assert mine == evaluated
    parts = {"codec", "likelihood", "prior_1", "prior_2", "sampler", "selection", "refinement"}
    assert set(mine) == parts | {"likelihood_weight", "posterior_mean", "conditional", "seed", "mixtures_of", "content"}
    predict(Evaluation(Average(), overwrite=True), noise(), tmp_path / "evaluation")
    assert not other.entropy_figure.exists()  # it showed the results that were replaced
