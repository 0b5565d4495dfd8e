"""Tests of Fréchet distances in complete separation runs; test_frechet.py tests the distance itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from chain import lass
from offline_runs import read_offline_runs
from scipy.linalg import sqrtm

from lass.data.images.digits import Digits
from lass.data.mixing import mix
from lass.metrics import ImageFeatures
from lass.metrics.frechet import FrechetDistances, InceptionFeatures
from lass.report.results import ResultsFolder

FEW_CANDIDATES = "--model.sampler.init_args.num_candidates=8"  # separations need not be good here


@pytest.fixture
def no_inception(tmp_path, monkeypatch):
    """Empty download cache of torch."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_without_inception_a_run_says_what_to_get_and_goes_on(chain, repository, no_inception, caplog):
    caplog.set_level("INFO")
    lass(repository, "separate", "--model.fid=true", "--trainer.default_root_dir=runs/no-inception")
    said = " ".join(caplog.text.split())
    assert "There will be no FID: Inception's weights are not at" in said
    assert "name the file with --model.inception_weights" in said
    summary = json.loads((chain / "runs/no-inception/summary.json").read_text())
    assert set(summary) == {"psnr_db", "average_psnr_db", "codec_psnr_db"}
    with pytest.raises(SystemExit, match=r"no Inception weights at nowhere.pth: download https"):
        lass(repository, "separate", "--model.fid=true", "--model.inception_weights=nowhere.pth")
    with pytest.raises(SystemExit, match=r"no FID was requested: set --model.fid=true"):
        lass(repository, "separate", "--model.inception_weights=nowhere.pth")
    with pytest.raises(SystemExit, match=r"no features at nowhere: train some"):
        lass(repository, "separate", "--model.features=nowhere")


class FewInceptionFeatures(InceptionFeatures):
    """Five features of an early layer, so that six images are enough."""

    def __init__(self, weights):
        super().__init__(weights, 64)
        self.num_features = 5

    def forward(self, images):
        return super().forward(images)[:, :5]


@pytest.mark.slow
def test_with_inception_there_is_a_fid(chain, repository, random_inception, monkeypatch):
    """With features of a random network."""
    monkeypatch.setattr("lass.tasks.distances.InceptionFeatures", FewInceptionFeatures)
    options = ["--model.fid=true", f"--model.inception_weights={random_inception}", FEW_CANDIDATES]
    options += ["--data.num_mixtures=5", "--data.batch_size=2", "--trainer.default_root_dir=runs/fid"]
    lass(repository, "separate", *options, "--trainer.logger.init_args.save_dir=runs/fid")
    summary = json.loads((chain / "runs/fid/summary.json").read_text())
    distances = FrechetDistances(FewInceptionFeatures(random_inception), ["estimates"])
    batch = next(iter(Digits(batch_size=5, num_validation=200, num_mixtures=5).predict_dataloader()))
    estimates = torch.stack([ResultsFolder("runs/fid").read(i)[0]["estimates"] for i in range(5)])
    distances.update(batch.signals.flatten(0, 1), {"estimates": estimates.flatten(0, 1)})
    assert summary["fid"]["estimates"] == pytest.approx(distances.compute()["estimates"], rel=1e-3)
    run = read_offline_runs(chain / "runs" / "fid")[0]
    assert run.history["separation/fid/estimates"] == [summary["fid"]["estimates"]]
    assert run.directions["separation/fid/estimates"] == "min"


def test_distances_are_those_of_the_stored_estimates(chain, repository, no_inception, caplog, capsys):
    """Also: a log message reports too few images for a distance."""
    caplog.set_level("INFO")
    features = ImageFeatures(num_features=5, width=8).eval()
    features.save_pretrained("runs/features/features")
    options = ["--model.features=runs/features/features", "--trainer.default_root_dir=runs/distances"]
    lass(repository, "separate", *options)
    found = json.loads((chain / "runs/distances/summary.json").read_text())["frechet_small"]
    printed = capsys.readouterr().out
    assert "Fréchet distance on features of a small network, not FID, to the 12 sources" in printed
    batch = next(iter(Digits(batch_size=6, num_validation=200, num_mixtures=6).predict_dataloader()))
    estimates = torch.stack([ResultsFolder("runs/distances").read(i)[0]["estimates"] for i in range(6)])
    sets = {"estimates": estimates, "mixture": mix(batch.signals)[:, None].expand_as(batch.signals)}
    for name, images in sets.items():
        with torch.no_grad():
            real, fake = (features(x.flatten(0, 1).clamp(0, 1)).double().numpy() for x in (batch.signals, images))
        first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
        expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(first + second)
        expected -= 2 * np.trace(sqrtm(first @ second).real)
        # Batch sizes differ, so features differ by float32 rounding, amplified by square roots of eigenvalues near 0.
        assert found[name] == pytest.approx(expected, rel=1e-3, abs=1e-6)

    lass(repository, "separate", *options, "--data.num_mixtures=2")  # resumes with two stored mixtures
    said = " ".join(caplog.text.split())
    assert "There will be no frechet_small: it needs at least 6 images, so 3 mixtures, and this run has 2." in said
