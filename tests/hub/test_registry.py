"""Published models: the list is complete and true, and names become folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lass import LassError
from lass.hub import default_for, folder_of, published_models


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Working directory without the repository, whose checkout is not found either."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lass.hub.folders.CHECKOUT", tmp_path / "site-packages")
    return tmp_path


def test_every_published_model_is_described_and_there(repository):
    models = published_models()
    assert len({model.name for model in models}) == len(models) > 0
    for model in models:
        assert model.kind in ("image", "audio")
        assert all((model.description, model.licence, model.training_data))
        assert model.folder or (model.repository and model.revision)
        if model.folder:
            assert folder_of(model.name).resolve() == repository / model.folder  # verifies the files
            priors = json.loads((repository / model.folder / "separator.json").read_text())["priors"]
            assert len(priors) == model.num_sources
            folders = {"codec", *priors}
            assert set(model.files) == {"separator.json", "likelihood.safetensors"} | {
                f"{folder}/{file}" for folder in folders for file in ("config.json", "model.safetensors")
            }


def test_the_default_is_the_first_of_its_kind(monkeypatch):
    (mnist, *_) = published_models()
    songs, others = replace(mnist, name="songs", kind="audio"), replace(mnist, name="others", kind="audio")
    assert default_for("image") == mnist
    assert default_for("audio").name == "slakh_like"
    monkeypatch.setattr("lass.hub.registry.published_models", lambda: (mnist, songs, others))
    assert default_for("audio") == songs


def test_a_name_is_found_in_the_working_directory_and_then_in_the_checkout(repository, elsewhere, monkeypatch):
    with pytest.raises(LassError, match="is the folder pretrained/mnist of the repository of lass, which is not here"):
        folder_of("mnist")
    monkeypatch.setattr("lass.hub.folders.CHECKOUT", repository)
    assert folder_of("mnist") == repository / "pretrained/mnist"
    shutil.copytree(repository / "pretrained/mnist", "pretrained/mnist")
    assert folder_of("mnist") == Path("pretrained/mnist")
    Path("mnist").mkdir()
    assert folder_of("mnist") == folder_of(Path("mnist")) == Path("mnist")  # as it is, without verification


@pytest.mark.parametrize("file", sorted(published_models()[0].files))
def test_a_changed_file_of_a_published_model_is_refused(repository, elsewhere, file):
    shutil.copytree(repository / "pretrained/mnist", "pretrained/mnist")
    path = Path("pretrained/mnist", file)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LassError, match=f"{path} is not the file of the published model mnist, as its SHA-256 differs"):
        folder_of("mnist")
    path.unlink()
    with pytest.raises(LassError, match=f"{path} of the published model mnist is missing"):
        folder_of("mnist")
    assert folder_of("pretrained/mnist") == Path("pretrained/mnist")


def test_an_unknown_name_is_refused_without_a_request(elsewhere):
    with pytest.raises(LassError, match=r"no separator mnits: expected a folder, a published model \(.*mnist.*\)"):
        folder_of("mnits")
    with pytest.raises(LassError, match=r"no separator at runs/mnist/separate/separator: .*make separate"):
        folder_of("runs/mnist/separate/separator")
    for name in ("./models/mnist", "../models", "/models", "a/b/c", "a--b/c", "~/models"):
        with pytest.raises(LassError, match="There is no separator at"):
            folder_of(name)
