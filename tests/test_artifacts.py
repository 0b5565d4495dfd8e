"""Artefact files that are changed, damaged or malicious; and hard links instead of copies."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import lass.artifacts
from lass import LassError, Separator, SparseCounts, SparseLikelihood
from lass.artifacts import atomic_write, fingerprint, load_artifact, load_tensors, save_tensors
from lass.codecs import ImageVQVAE, JukeboxVQVAE, load_codec
from lass.likelihood import LatentLikelihood, LatentMoments, load_likelihood
from lass.priors import TransformerPrior
from lass.samplers import TopK
from lass.separation import NoRefinement


def small_prior(**settings) -> TransformerPrior:
    torch.manual_seed(0)
    return TransformerPrior(**{"num_codes": 6, "num_positions": 4, "dim": 8, "num_layers": 1, **settings}).eval()


def small_counts(codec_fingerprint=None) -> SparseCounts:
    counts = SparseCounts(6, codec_fingerprint=codec_fingerprint)
    counts.add(*torch.randint(6, (3, 400), generator=torch.Generator().manual_seed(0)))
    return counts


def small_moments() -> LatentMoments:
    moments = LatentMoments(6, 3)
    generator = torch.Generator().manual_seed(0)
    moments.add(*torch.randint(6, (2, 400), generator=generator), torch.randn(400, 3, generator=generator))
    return moments


@pytest.fixture
def separator(tmp_path):
    torch.manual_seed(0)
    codec = ImageVQVAE(image_shape=(1, 8, 8), num_codes=6, width=8, latent_dim=4).eval()
    return Separator(codec, small_prior(), small_counts().likelihood(), TopK(4, k=4), refinement=NoRefinement())


def edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ---- fingerprints


def test_the_fingerprint_of_a_model_includes_its_configuration():
    """The fingerprint depends on settings that change the model's output, but not the shapes of its weights."""
    weights = small_prior().state_dict()
    same = small_prior()
    same.load_state_dict(weights)
    assert fingerprint(same) == fingerprint(small_prior())
    for setting in ({"num_heads": 4}, {"order": [3, 1, 2, 0]}):
        other = small_prior(**setting)
        other.load_state_dict(weights)
        assert fingerprint(other) != fingerprint(same)
    jukebox = {"downs": [1], "strides": [2], "width": 4, "depth": 1, "latent_dim": 4, "num_codes": 4}
    at_22, at_44 = (JukeboxVQVAE(**jukebox, upsampling=u, sample_rate=44100 // u) for u in (2, 1))
    at_44.load_state_dict(at_22.state_dict())
    assert fingerprint(at_22) != fingerprint(at_44)


def test_a_new_argument_with_its_default_keeps_old_fingerprints():
    prior = small_prior()
    before = fingerprint(prior)
    del prior.config["checkpointing"]  # as in an older version
    assert fingerprint(prior) == before


# ---- files that changed


@pytest.mark.parametrize("kind", ["weights", "counts", "moments", "likelihood", "latent likelihood"])
def test_a_flipped_bit_is_noticed(tmp_path, kind):
    """A flipped bit is detected in every hundredth byte of the tensors, tested one at a time."""
    path = tmp_path / "file.safetensors"
    parts = {
        "counts": (small_counts(), SparseCounts.load),
        "moments": (small_moments(), LatentMoments.load),
        "likelihood": (small_counts().likelihood(), SparseLikelihood.load),
        "latent likelihood": (small_moments().likelihood(torch.randn(6, 3)), LatentLikelihood.load),
    }
    if kind == "weights":
        path = small_prior().save_pretrained(tmp_path) / "model.safetensors"
        load = lambda _: load_artifact(tmp_path, "prior")  # noqa: E731
    else:
        part, load = parts[kind]
        part.save(path)
    load(path)
    whole = path.read_bytes()
    first = 8 + int.from_bytes(whole[:8], "little")
    for position in range(first, len(whole), max(100, (len(whole) - first) // 50)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(LassError, match="is damaged"):
            load(path)


def test_a_configuration_that_was_changed_is_noticed(tmp_path):
    folder = small_prior().save_pretrained(tmp_path)
    edit(folder / "config.json", lambda facts: facts["config"].update(num_heads=4))
    with pytest.raises(LassError, match=r"config.json do not have the fingerprint"):
        load_artifact(folder, "prior")


def test_large_files_are_only_verified_when_asked(tmp_path, monkeypatch):
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"x": torch.zeros(100)}, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(lass.artifacts, "VERIFIED_BYTES", 300)
    load_tensors(path, "tensors")
    with pytest.raises(LassError, match="is damaged"):
        load_tensors(path, "tensors", verify=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    prior = small_prior()
    with torch.no_grad():
        prior.to_logits.bias[2] = value
    with pytest.raises(LassError, match=r"NaN or infinite numbers in to_logits.bias"):
        load_artifact(prior.save_pretrained(tmp_path / "prior"), "prior")
    likelihood = small_counts().likelihood()
    likelihood.state_dict()["log_likelihood"][0] = value
    likelihood.save(tmp_path / "likelihood.safetensors")
    with pytest.raises(LassError, match="NaN or infinite numbers in log_likelihood"):
        load_likelihood(tmp_path / "likelihood.safetensors")
    with pytest.raises(LassError, match="This batch holds NaN or infinite numbers in latents"):
        small_moments().add(torch.tensor([1]), torch.tensor([2]), torch.tensor([[0.0, value, 0.0]]))


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(LassError, match="No space"), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


# ---- folders with false descriptions


def test_a_codec_is_no_prior_whatever_its_folder_says(tmp_path, separator):
    folder = separator.codec.save_pretrained(tmp_path / "codec")
    edit(folder / "config.json", lambda facts: facts.update(kind="prior"))
    with pytest.raises(LassError, match="holds a ImageVQVAE, not a prior"):
        load_artifact(folder, "prior")
    edit(folder / "config.json", lambda facts: facts.update({"kind": "codec", "class": "TopK"}))
    with pytest.raises(LassError, match="holds a TopK, not a codec"):
        load_codec(folder)


@pytest.mark.parametrize(
    "claim",
    [
        {"num_codes": 2**21 - 1, "latent_dim": 2**16},  # 2^39 bytes
        {"width": 2**16},
        {"num_residual_blocks": 10**9},
        {"num_codes": -1},
        {"num_codes": "many"},
        {"image_shape": [1, 2**20, 2**20]},
        {"image_shape": 3},
        {"unknown": 1},
    ],
    ids=str,
)
def test_sizes_that_a_folder_claims_take_no_memory(tmp_path, separator, claim):
    folder = separator.codec.save_pretrained(tmp_path / "codec")
    edit(folder / "config.json", lambda facts: facts["config"].update(claim))
    for verify in (True, False):
        with pytest.raises(LassError):
            load_artifact(folder, "codec", verify=verify)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "no separator in format 2"),
        ({"posterior_mean": "no"}, "posterior_mean in .* must be true or false, not 'no'"),
        ({"likelihood_weight": math.nan}, "likelihood_weight in .* must be a number, at least 0, not nan"),
        ({"likelihood_weight": -1}, "likelihood_weight in .* must be a number"),
        ({"likelihood_weight": "1"}, "likelihood_weight in .* must be a number"),
        ({"priors": ["../../evil"] * 2}, r"holds the name '../../evil'"),
        ({"priors": ["/etc"] * 2}, r"holds the name '/etc'"),
        ({"priors": []}, "expected a list of 1 to 64 folders"),
        ({"priors": ["prior"] * 10**6}, "expected a list of 1 to 64 folders"),
        ({"priors": 3}, "expected a list of 1 to 64 folders"),
        ({"source_names": ["../../evil", "b"]}, r"holds the name '../../evil'"),
        ({"source_names": ["a", "a"]}, "a different name for each of 2 sources"),
        ({"source_names": ["a"]}, "a different name for each of 2 sources"),
        ({"source_names": "ab"}, "expected a list"),
        ({"sampler": {"class": "os.system", "command": "true"}}, "not among the known ones"),
        (
            {"sampler": {"class": "TransformerPrior", "num_codes": 2**20, "dim": 2**16}},
            "as its Sampler, which it is not",
        ),
        ({"sampler": {"class": "NoRefinement"}}, "names NoRefinement as its Sampler, which it is not"),
        ({"sampler": {"class": "TopK", "num_candidates": 10**15}}, "describes no TopK: num_candidates must be"),
        ({"sampler": {"class": "TopK", "num_candidates": "all"}}, "describes no TopK"),
        ({"sampler": {"class": "TopK", "unknown": 1}}, "describes no TopK of this version"),
        ({"sampler": "TopK"}, "expected a JSON object with its class"),
        ({"refinement": {"class": "LatentDescent", "project_to_mixture": "no"}}, "describes no LatentDescent"),
        ({"selection": {"class": ["ClosestToMixture"]}}, "not among the known ones"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_separator_that_makes_no_sense_is_one_sentence(tmp_path, separator, change, message):
    folder = separator.save_pretrained(tmp_path / "separator")
    edit(folder / "separator.json", lambda facts: facts.update(change))
    with pytest.raises(LassError, match=message):
        Separator.from_pretrained(folder)


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({}, {"num_codes": 10**12}),
        ({"first": torch.tensor([9])}, {}),
        ({"starts": torch.tensor([0, 5])}, {}),
        ({"starts": torch.zeros(7, dtype=torch.long)}, {}),
        ({"second": torch.zeros(3, dtype=torch.long)}, {}),
    ],
    ids=["codes", "code", "starts", "empty", "lengths"],
)
def test_a_likelihood_that_contradicts_itself_is_refused(tmp_path, tensors, facts):
    """Inconsistent tables are rejected also if their checksum is correct, as an attacker would write it."""
    table = {**small_counts().likelihood().state_dict(), **tensors}
    facts = {"kind": "likelihood", "num_codes": 6, "codec_fingerprint": None, **facts}
    save_tensors(tmp_path / "file.safetensors", table, facts)
    with pytest.raises(LassError):
        load_likelihood(tmp_path / "file.safetensors")


@pytest.mark.parametrize("changed", [{"keys": torch.tensor([5, 3])}, {"counts": -torch.ones(2, dtype=torch.long)}, {}])
def test_counts_that_contradict_themselves_are_refused(tmp_path, changed):
    tensors = {"keys": torch.tensor([3, 5]), "counts": torch.ones(2, dtype=torch.long), **changed}
    facts = {"kind": "counts", "num_codes": 6, "symmetric": True, "weights": None, "codec_fingerprint": None}
    save_tensors(tmp_path / "file.safetensors", tensors, {**facts, **({} if changed else {"num_codes": 1})})
    with pytest.raises(LassError, match="holds no counts"):
        SparseCounts.load(tmp_path / "file.safetensors")


# ---- linking


def inode(path) -> int:
    return path.stat().st_ino


def test_what_was_loaded_and_has_not_changed_is_linked(tmp_path, separator):
    first = separator.save_pretrained(tmp_path / "first")
    again = Separator.from_pretrained(first)
    second = again.save_pretrained(tmp_path / "second")
    files = ["codec/model.safetensors", "prior/model.safetensors", "likelihood.safetensors"]
    assert [inode(first / file) for file in files] == [inode(second / file) for file in files]
    again.save_pretrained(first)  # into the folder that it was loaded from
    assert Separator.from_pretrained(first).settings == separator.settings
    assert not list(tmp_path.rglob("*.tmp"))


def test_weights_that_changed_in_memory_or_on_disk_are_written(tmp_path):
    folder = small_prior().save_pretrained(tmp_path / "prior")
    prior = load_artifact(folder, "prior")
    with torch.no_grad():
        prior.to_logits.bias += 1
    other = prior.save_pretrained(tmp_path / "other")
    assert inode(folder / "model.safetensors") != inode(other / "model.safetensors")
    torch.testing.assert_close(load_artifact(other, "prior").to_logits.bias, prior.to_logits.bias, atol=0, rtol=0)
    prior = load_artifact(folder, "prior")
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model.safetensors")
    third = prior.save_pretrained(tmp_path / "third")
    assert inode(folder / "model.safetensors") != inode(third / "model.safetensors")
    load_artifact(third, "prior")


def test_saving_over_one_name_of_a_linked_file_leaves_the_other(tmp_path):
    folder = small_prior().save_pretrained(tmp_path / "prior")
    linked = load_artifact(folder, "prior").save_pretrained(tmp_path / "linked")
    before = fingerprint(load_artifact(linked, "prior"))
    small_prior(num_layers=2).save_pretrained(folder)
    assert fingerprint(load_artifact(linked, "prior")) == before


def test_a_likelihood_made_of_counts_is_kept_beside_them(tmp_path):
    path = tmp_path / "counts.safetensors"
    small_counts().save(path)
    codebook = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    made = load_likelihood(path, 0.5, codebook)
    kept = load_likelihood(path, 0.5, codebook, keep=True)
    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], tensor, atol=0, rtol=0)
    (file,) = tmp_path.glob("counts.likelihood-*")
    kept.save(tmp_path / "elsewhere.safetensors")
    assert inode(file) == inode(tmp_path / "elsewhere.safetensors")
    written = file.stat().st_mtime_ns
    load_likelihood(path, 0.5, codebook, keep=True)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:-1])
    load_likelihood(path, 0.5, codebook, keep=True)  # made again
    more = small_counts()
    more.add(*torch.ones(3, 1, dtype=torch.long))
    more.save(path)
    fresh = load_likelihood(path, 0.5, codebook, keep=True)
    expected = more.likelihood(0.5, codebook).state_dict()["log_likelihood"]
    torch.testing.assert_close(fresh.state_dict()["log_likelihood"], expected, atol=0, rtol=0)
    assert len(list(tmp_path.glob("counts.likelihood-*"))) == 1
