"""Likelihoods whose files are too large to be verified by default: invalid entries are refused nevertheless."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lass.artifacts
from lass import LassError, SparseCounts
from lass.likelihood import ChainLikelihood, load_likelihood

NUM_CODES = 6


@pytest.fixture(autouse=True)
def _nothing_is_verified(monkeypatch):
    monkeypatch.setattr(lass.artifacts, "VERIFIED_BYTES", 0)


def small_likelihood():
    counts = SparseCounts(NUM_CODES)
    counts.add(*torch.randint(NUM_CODES, (3, 400), generator=torch.Generator().manual_seed(0)))
    return counts.likelihood(smoothing=0.5, codebook=torch.eye(NUM_CODES))


def write_changed(path, name, change):
    """Change one tensor in a file, and leave its metadata as they are."""
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
    tensors[name] = change(tensors[name])
    assert json.loads(metadata["lass"])["checksum"]
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(path), metadata=metadata)


def with_last(value):
    def change(tensor):
        tensor[-1] = value
        return tensor

    return change


CHANGES = {
    "code too large": ("first", with_last(NUM_CODES)),
    "negative code": ("second", with_last(-1)),
    "nearest code too large": ("nearest_counted", with_last(NUM_CODES)),
    "pair too large": ("seen_pairs", with_last(NUM_CODES**2)),
    "codes of another type": ("first", torch.Tensor.float),
    "short integers": ("second", torch.Tensor.int),
    "starts of another type": ("starts", torch.Tensor.double),
    "likelihood of another type": ("log_likelihood", torch.Tensor.double),
    "not a number": ("log_likelihood", with_last(float("nan"))),
    "infinite": ("log_unseen", with_last(float("inf"))),
    "one value less": ("log_unseen", lambda x: x[:-1]),
    "two dimensions": ("nearest_counted", lambda x: x[:, None]),
}


@pytest.mark.parametrize("kind", ["table", "chain"])
@pytest.mark.parametrize("change", CHANGES)
def test_invalid_entries_are_refused_in_a_file_of_any_size(change, kind, tmp_path):
    name, changed = CHANGES[change]
    path = tmp_path / "likelihood.safetensors"
    table = small_likelihood()
    (table if kind == "table" else ChainLikelihood([table, table])).save(path)
    loaded = load_likelihood(path)
    assert loaded.num_codes == NUM_CODES
    write_changed(path, name if kind == "table" else f"3.{name}", changed)
    with pytest.raises(LassError, match=r"holds no likelihood of this version of lass: make it again"):
        load_likelihood(path)


def test_counts_are_verified_whatever_their_size(tmp_path):
    counts = SparseCounts(NUM_CODES)
    counts.add(*torch.randint(NUM_CODES, (3, 400), generator=torch.Generator().manual_seed(0)))
    path = tmp_path / "counts.safetensors"
    counts.save(path)
    write_changed(path, "keys", with_last(NUM_CODES**3))
    with pytest.raises(LassError, match="is damaged"):
        load_likelihood(path)
