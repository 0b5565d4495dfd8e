"""Separators on the Hugging Face Hub: loaded, uploaded, cached, and safe to load from strangers."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_hub import TOKEN, fake_hub
from huggingface_hub import ModelCard, ModelHubMixin, constants

from lass import LassError, Separator, SparseCounts
from lass.artifacts import fingerprint
from lass.cli.separate import parser
from lass.codecs import AudioVQVAE, ImageVQVAE
from lass.hub import folder_of, published_models
from lass.hub.repositories import MAX_BYTES, MAX_FILES, MAX_TEXT_BYTES
from lass.hub.scores import Score
from lass.priors import TransformerPrior
from lass.samplers import Greedy
from lass.separation import NoRefinement

NAME = "someone/digits"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Hub without repositories; the working directory is empty."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with fake_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def made(num_codes=4, **options):
    torch.manual_seed(0)
    codec = ImageVQVAE((1, 8, 8), num_codes=num_codes, width=8, latent_dim=3).eval()
    counts = SparseCounts(num_codes, codec_fingerprint=fingerprint(codec))
    counts.add(*torch.randint(num_codes, (3, 500)))
    prior = TransformerPrior(num_codes, 4, dim=8, num_layers=1, num_heads=1).eval()
    return Separator(codec, prior, counts.likelihood(), Greedy(), refinement=NoRefinement(), **options)


@pytest.fixture(scope="module")
def separator():
    return made()


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.*")}


@pytest.fixture(scope="module")
def files(separator, tmp_path_factory):
    """Contents of the files of a saved separator, by path."""
    return files_of(separator.save_pretrained(tmp_path_factory.mktemp("saved")))


MIXTURE = torch.linspace(0, 1, 64).view(1, 8, 8)


def test_a_pushed_separator_comes_back_the_same(hub, separator, files):
    assert isinstance(separator, ModelHubMixin)
    address = separator.push_to_hub(NAME, licence="MIT", training_data="digits", token=TOKEN)
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/{NAME}/commit/[0-9a-f]{{40}}", address)
    pushed = hub.repositories[NAME][-1]
    assert {**files, "README.md": pushed["README.md"]} == pushed
    loaded = Separator.from_pretrained(NAME)
    assert loaded.settings == separator.settings
    assert loaded.fingerprints() == separator.fingerprints()
    assert loaded.separate(MIXTURE).estimates.equal(separator.separate(MIXTURE).estimates)
    assert len(Separator.from_pretrained(Path(NAME)).priors) == 2


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, files, tmp_path):
    later = files_of(made(num_codes=5).save_pretrained(tmp_path / "later"))
    hub.repositories[NAME], hub.tags = [files, later], {"v1": 0}
    for revision, num_codes in {None: 5, "main": 5, "v1": 4, hub.sha(NAME, 0): 4, hub.sha(NAME, 1): 5}.items():
        assert Separator.from_pretrained(NAME, revision=revision).codec.num_codes == num_codes
    with pytest.raises(LassError, match="someone/digits on the Hub has no revision 'v2'"):
        Separator.from_pretrained(NAME, revision="v2")
    Path(NAME).mkdir(parents=True)
    with pytest.raises(LassError, match="someone/digits is a folder, which has no revision 'v1': leave the revision"):
        Separator.from_pretrained(NAME, revision="v1")
    with pytest.raises(LassError, match="mnist is a published model, which has no revision 'v1'"):
        Separator.from_pretrained("mnist", revision="v1")


def test_files_are_downloaded_once_and_on_request_again(hub, files, tmp_path):
    hub.repositories[NAME] = [files]
    folder = folder_of(NAME)
    assert folder.is_relative_to(tmp_path / "cache")
    assert files_of(folder) == files
    assert hub.downloaded() == sorted(files)
    folder_of(NAME)
    assert hub.downloaded() == sorted(files)
    folder_of(NAME, force_download=True)
    assert hub.downloaded() == sorted([*files, *files])
    assert folder_of(NAME, cache_dir=tmp_path / "other").is_relative_to(tmp_path / "other")


def test_the_cache_serves_without_the_hub(hub, files, monkeypatch):
    hub.repositories[NAME], hub.tags = [files], {"v1": 0}
    folder = folder_of(NAME)
    hub.requests.clear()
    assert folder_of(NAME, local_files_only=True) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert folder_of(NAME) == folder
    with pytest.raises(LassError, match=r"no complete copy of this model in revision 'v1' in .* cache, while requests"):
        folder_of(NAME, revision="v1")
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.status = 500
    assert folder_of(NAME) == folder


def test_a_model_that_is_not_in_the_cache_needs_the_hub(hub, monkeypatch):
    with pytest.raises(LassError, match=r"no folder someone/digits, and no complete copy .* while requests .* are sw"):
        folder_of(NAME, local_files_only=True)
    assert not hub.requests
    hub.status = 500
    with pytest.raises(LassError, match=r"no complete copy .* cache, while the Hub cannot be reached .*500"):
        folder_of(NAME)
    hub.status = None
    with pytest.raises(LassError, match="no folder someone/digits, and no model of this name on the Hugging Face Hub"):
        folder_of(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # discard; nothing listens
    with pytest.raises(LassError, match=r"no complete copy .* cache, while the Hub cannot be reached"):
        folder_of(NAME)


def test_a_login_page_of_a_network_is_no_answer_of_the_hub(hub):
    hub.page = b"<html>Log in to this network</html>"
    with pytest.raises(LassError, match=r"no complete copy .* cache, while the Hub cannot be reached"):
        folder_of(NAME)


def test_a_folder_takes_precedence_over_the_hub(hub, separator):
    separator.save_pretrained(NAME)
    assert folder_of(NAME) == Path(NAME)
    Separator.from_pretrained(NAME)
    assert not hub.requests


def test_a_published_model_on_the_hub_is_verified(hub, files, monkeypatch):
    import hashlib

    hub.repositories[NAME] = [files, {**files, "separator.json": b"{}"}]
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    model = replace(published_models()[0], name="tiny", folder=None, files=digests, repository=NAME)
    for number in (0, 1):
        published = replace(model, revision=hub.sha(NAME, number))
        monkeypatch.setattr("lass.hub.folders.published_models", lambda published=published: (published,))
        if number == 0:
            assert Separator.from_pretrained("tiny").codec.num_codes == 4
        else:
            with pytest.raises(LassError, match=r"separator\.json is not the file of the published model tiny"):
                Separator.from_pretrained("tiny")


def test_code_and_pickles_of_a_repository_stay_there(hub, files, tmp_path):
    """Files of other kinds are not downloaded, and no module of the repository is imported."""
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    others = ["hostile.py", "codec/modeling_hostile.py", "pytorch_model.bin", "codec/model.pkl", ".hidden.json"]
    config = json.dumps({"auto_map": {"AutoModel": "hostile.Model"}, "architectures": ["hostile"]}).encode()
    hub.repositories[NAME] = [{**files, "config.json": config, **dict.fromkeys(others, trap)}]
    Separator.from_pretrained(NAME)
    assert hub.downloaded() == sorted([*files, "config.json"])
    assert not (tmp_path / "ran").exists()
    assert not {name for name in sys.modules if "hostile" in name}


@pytest.mark.parametrize(
    "name",
    ["../escape.json", "codec/../../../escape.safetensors", "/escape.json", "a\\..\\..\\escape.json", "a//b.json"],
)
def test_names_that_leave_the_folder_are_refused(hub, files, tmp_path, name):
    hub.repositories[NAME] = [{**files, name: b"{}"}]
    with pytest.raises(LassError, match=r"someone/digits holds the name '.*', which cannot be the name of a file"):
        Separator.from_pretrained(NAME)
    assert not hub.downloaded()
    assert not list(tmp_path.rglob("escape*"))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"codec/model.safetensors": MAX_BYTES + 1}, "codec/model.safetensors .* declared size of 68719476737 bytes"),
        ({"separator.json": MAX_TEXT_BYTES + 1}, "separator.json .* declared size of 1048577 bytes, expected at most"),
        ({"separator.json": -1}, "separator.json .* declared size of -1 bytes"),
        ({"likelihood.safetensors": 2**35, "prior/model.safetensors": 2**35}, r"has 64\.0 GiB, but 1\.0 GiB are free"),
    ],
)
def test_huge_files_are_refused_before_they_are_downloaded(hub, files, monkeypatch, sizes, reason):
    hub.repositories[NAME], hub.declared = [files], sizes
    usage = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr("lass.hub.repositories.shutil.disk_usage", lambda path: usage)
    with pytest.raises(LassError, match=reason):
        Separator.from_pretrained(NAME)
    assert not hub.downloaded()


def test_repositories_that_hold_no_separator_are_refused(hub, files):
    hub.repositories[NAME] = [{"config.json": b"{}", "model.safetensors": b""}]
    with pytest.raises(LassError, match=r"someone/digits on the Hub has no separator\.json"):
        Separator.from_pretrained(NAME)
    hub.repositories[NAME] = [{**files, **{f"{i}.json": b"{}" for i in range(MAX_FILES)}}]
    with pytest.raises(LassError, match=f"has {MAX_FILES + len(files)} files, expected at most {MAX_FILES}"):
        Separator.from_pretrained(NAME)
    assert not hub.downloaded()


@pytest.mark.parametrize("file", ["codec/model.safetensors", "likelihood.safetensors", "separator.json"])
def test_damaged_files_of_a_repository_are_refused(hub, files, file):
    hub.repositories[NAME] = [{**files, file: files[file][:-9]}]
    with pytest.raises(LassError, match=f"{re.escape(file)} is damaged|{file.partition('/')[0]} is damaged"):
        Separator.from_pretrained(NAME)


def test_an_upload_that_fails_says_why(hub, separator):
    with pytest.raises(LassError, match=r"was not uploaded, as there is no valid access token: .* `hf auth login`"):
        separator.push_to_hub(NAME)
    with pytest.raises(LassError, match="was not uploaded, as there is no valid access token"):
        separator.push_to_hub(NAME, token="hf_other")
    hub.status = 403
    with pytest.raises(LassError, match="was not uploaded: your access token has no write access"):
        separator.push_to_hub(NAME, token=TOKEN)
    hub.status = 500
    with pytest.raises(LassError, match=r"was not uploaded to the Hugging Face Hub \(.*500"):
        separator.push_to_hub(NAME, token=TOKEN)
    requests = len(hub.requests)
    with pytest.raises(LassError, match=r"no summary of results at nothing"):
        separator.push_to_hub(NAME, results="nothing", token=TOKEN)
    with pytest.raises(LassError, match=r"'digits' is no repository .* expected organisation/name"):
        separator.push_to_hub("digits", token=TOKEN)
    assert len(hub.requests) == requests
    assert not hub.repositories


def test_saving_writes_no_card_and_keeps_one(separator, tmp_path, files):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/README.md").write_text("mine")
    separator.save_pretrained(tmp_path / "saved")
    assert files_of(tmp_path / "saved") == {**files, "README.md": b"mine"}


@pytest.fixture
def results(tmp_path):
    """Results folder of `lass predict`, with the scores of 5 mixtures."""
    folder = tmp_path / "results"
    folder.mkdir()
    scores = {"psnr_db": 21.25, "average_psnr_db": 15.0, "codec_psnr_db": float("nan")}
    summary = {name: {"mean": mean, "std": 1.5, "num": 5} for name, mean in scores.items()}
    (folder / "summary.json").write_text(json.dumps({**summary, "fid": {"estimates": 3.0}}))
    (folder / "settings.json").write_text(json.dumps({"mixtures_of": "validation"}))
    (folder / "config.yaml").write_text("data:\n  class_path: lass.data.images.MNIST\n")
    return folder


def test_the_card_says_what_the_model_is(separator, results, hub):
    separator.push_to_hub(NAME, licence="MIT", training_data="Handwritten digits", results=results, token=TOKEN)
    card = ModelCard(hub.repositories[NAME][-1]["README.md"].decode())
    assert (card.data.license, card.data.library_name, card.data.model_name) == ("mit", "lass", "digits")
    result, fid = card.data.eval_results  # scores of baselines are no results of the model
    assert (fid.metric_type, fid.metric_value) == ("fid", 3.0)
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("psnr_db", 21.25, "MNIST")
    assert result.dataset_split == "validation"
    assert "| PSNR in dB | 21.25 ± 1.50 | 5 |" in card.text
    assert "| PSNR in dB, of the mixture itself as every estimate | 15.00 ± 1.50 | 5 |" in card.text
    assert "| FID | 3.00 |  |" in card.text
    assert "codec" not in card.text.partition("## Scores")[2]  # its score is undefined
    assert "Training data: Handwritten digits. Licence of the weights: MIT." in card.text
    assert "2301.08562" in card.text
    assert "$" not in card.text


@pytest.mark.parametrize(
    ("name", "label"),
    {
        "sdr_db": "SDR in dB",
        "si_sdr_bass_db": "SI-SDR of bass in dB",
        "si_sdri_my drums_db": "SI-SDRi of my drums in dB",
        "codec_sdr_db": "SDR in dB, of the codec's reconstruction of the sources",
        "other_db": "other in dB",
    }.items(),
)
def test_scores_have_names_in_words(name, label):
    assert Score(name, 1.0).label == label


def test_the_commands_of_the_card_run(separator, hub, monkeypatch, tmp_path):
    from lass import write_image
    from lass.cli.main import main

    separator.push_to_hub(NAME, token=TOKEN)
    text = hub.repositories[NAME][-1]["README.md"].decode()
    assert "Licence of the weights: not stated" in text
    write_image("mixture.png", MIXTURE)
    (shell,), (python,) = (re.findall(rf"```{name}\n(.*?)```", text, re.DOTALL) for name in ("sh", "python"))
    main(shlex.split(shell)[1:])
    assert Path("separated/mixture-2.png").is_file()
    names: dict = {}
    exec(python, names)
    assert ", ".join(map(str, names["estimates"].shape)) in python


def test_the_card_of_an_audio_separator(tmp_path):
    torch.manual_seed(0)
    codec = AudioVQVAE(sample_rate=8000, num_codes=4, width=8, latent_dim=2).eval()
    counts = SparseCounts(4)
    counts.add(*torch.randint(4, (3, 500)))
    priors = [TransformerPrior(4, 8, dim=8, num_layers=1, num_heads=1).eval() for _ in range(2)]
    separator = Separator(codec, priors, counts.likelihood(), Greedy(), source_names=["drums", "bass"])
    card = separator.generate_model_card("someone/band")
    assert card.data.pipeline_tag == "audio-to-audio"
    assert "mixtures of drums and bass: mono audio at 8,000 Hz" in " ".join(card.text.split())
    assert "Only drums and bass are separated" in card.text
    (shell,), (python,) = (re.findall(rf"```{name}\n(.*?)```", card.text, re.DOTALL) for name in ("sh", "python"))
    assert parser().parse_args(shlex.split(shell)[2:]).mixtures == [Path("song.wav")]
    ast.parse(python)


@pytest.mark.parametrize("content", ['{"psnr_db": 3}', '{"psnr_db": {"mean": 1}}', "[]", "{"])
def test_damaged_results_are_refused(separator, results, content):
    (results / "summary.json").write_text(content)
    with pytest.raises(LassError, match=r"summary\.json"):
        separator.generate_model_card(NAME, results=results)


def test_results_without_a_config_have_no_name(separator, results):
    (results / "config.yaml").write_text("data: [")
    (results / "settings.json").unlink()
    result, _ = separator.generate_model_card(NAME, results=results).data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("test mixtures", None)
