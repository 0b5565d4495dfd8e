"""Tests of the checkpoint reader: any objects are read as data, no code is executed, claimed sizes are checked."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import enum
import functools
import io
import pathlib
import pickle
import struct
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from dangerous import Dangerous
from pytorch_lightning.utilities.parsing import AttributeDict
from safetensors.torch import save_file
from torch import nn

from lass import LassError
from lass.importers.checkpoints import fill, read_weights
from lass.importers.pickles import UnknownObject


def read(path):
    """Read the weights under "model", and the remaining content."""
    return read_weights(path, "model", "the internet", "the program")


def changed_pickle(path, change):
    """Replace the pickle inside a checkpoint by `change` of it."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    """Function that writes a checkpoint in the format since PyTorch 1.6, or in the format before."""

    def write(content):
        torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=request.param)
        return tmp_path / "a.ckpt"

    return write


def test_tensors_of_every_kind_are_read(save):
    base = torch.arange(24.0).view(4, 6)
    expected = {
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.randn(3)),
        **{str(dtype): torch.ones(3, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
        **{str(dtype): torch.ones(5, dtype=dtype) for dtype in (torch.int64, torch.uint8, torch.bool, torch.int16)},
    }
    weights, _ = read(save({"model": OrderedDict(expected)}))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype, name
        assert torch.equal(weights[name], tensor), name


def test_the_state_of_a_module_is_read_as_it_is_saved(save):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for content in ({"model": module.state_dict()}, module.state_dict()):  # also without the enclosing dictionary
        weights, _ = read(save(content))
        assert all(torch.equal(weights[name], tensor) for name, tensor in module.state_dict().items())


def test_safetensors_are_read_whatever_their_name(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "model.ckpt")
    weights, beside = read(tmp_path / "model.ckpt")
    assert torch.equal(weights["a"], torch.arange(3.0))
    assert beside == {}


class Colour(enum.Enum):
    RED = 1


@dataclass
class Settings:
    """Stand-in for a class of a third-party module."""

    rate: float = 0.1


def test_objects_beside_the_weights_become_stand_ins(save):
    """Also objects of classes that cannot be imported when the file is read."""
    gone = types.ModuleType("gone")
    exec("class Thing:\n    def __init__(self): self.a = 1", gone.__dict__)  # sets __module__ of the class
    sys.modules["gone"] = gone
    main = sys.modules["__main__"]
    main.OfMain = type("OfMain", (), {"__module__": "__main__"})
    objects = {
        "attributes": AttributeDict(rate=0.5),
        "path": pathlib.PurePosixPath("a/b"),
        "span": datetime.timedelta(seconds=3),
        "time": datetime.datetime(2020, 1, 1),
        "namespace": argparse.Namespace(a=1),
        "partial": functools.partial(max, 1),
        "colour": Colour.RED,
        "settings": Settings(),
        "scalar": np.float64(1.5),
        "array": np.ones(3),
        "counter": Counter("aab"),
        "default": defaultdict(list, a=[1]),
        "last": deque([1, 2]),
        "set": {1, 2},
        "frozen": frozenset({1}),
        "complex": 1j,
        "slice": slice(3),
        "thing": gone.Thing(),
        "main": main.OfMain(),
        "class": gone.Thing,
        "function": torch.nn.functional.relu,
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size([2]),
        "bytes": bytearray(b"1"),
        "module": nn.Linear(1, 1),
    }
    path = save({"model": {"a": torch.arange(2.0)}, "plain": {"b": [1, 2.5, None, True, ("x",)]}, **objects})
    del sys.modules["gone"], main.OfMain
    weights, beside = read(path)
    assert weights["a"].tolist() == [0, 1]
    assert beside["plain"] == {"b": [1, 2.5, None, True, ("x",)]}
    assert beside["attributes"] == {"rate": 0.5}  # subclasses of dict keep their entries
    assert type(beside["thing"]) is UnknownObject
    assert "gone" not in sys.modules
    allowed = (UnknownObject, str, list, dict, tuple, int, float, type(None))
    assert all(isinstance(beside[name], allowed) for name in objects)


class Anything:
    """Object whose unpickling calls a function with arguments, then sets state on the result."""

    def __init__(self, function, *arguments, state=None):
        self.called = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("protocol", range(5))
def test_code_is_not_run(save, tmp_path, protocol, monkeypatch):
    """Attacks through functions, methods, constructors, states, builtins, and modules with import side effects."""
    harm = tmp_path / "harm"
    module = tmp_path / "module_with_effects.py"
    module.write_text(f"open({str(harm)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    attacks = [
        Dangerous(harm),
        Anything(eval, f"open({str(harm)!r}, 'w')"),
        Anything(exec, f"open({str(harm)!r}, 'w')"),
        Anything(open, str(harm), "w"),
        Anything(getattr, pathlib.Path, "touch"),
        Anything(map, pathlib.Path.touch, [harm]),
        Anything(functools.partial, pathlib.Path.touch, harm),
        Anything(torch.load, str(harm)),
        Anything(UnknownObject, state={"__class__": Dangerous}),
        Anything(Anything, eval, "1", state=(None, {"__reduce__": 1})),
    ]
    plain = io.BytesIO()
    torch.save({"model": {"a": torch.ones(1)}, "attacks": attacks}, plain, pickle_protocol=max(protocol, 2))
    (tmp_path / "attack.ckpt").write_bytes(plain.getvalue())
    assert read(tmp_path / "attack.ckpt")[0]["a"].tolist() == [1]
    path = save({"model": {"a": torch.ones(1)}})
    if zipfile.is_zipfile(path):
        importing = b"cmodule_with_effects\nrun\n(tR."
        for attack in (importing, b"(imodule_with_effects\nrun\n.", *(pickle.dumps(a, protocol) for a in attacks)):
            changed_pickle(path, lambda _, attack=attack: attack)
            with pytest.raises(LassError):
                read(path)
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(attacks, protocol))
    with pytest.raises(LassError, match="are no checkpoint"):
        read(tmp_path / "bare.pkl")
    assert not harm.exists()
    assert "module_with_effects" not in sys.modules


def persistent(numel, size, stride, offset=0):
    """Pickle of {"model": {"a": tensor}} in PyTorch's format, with the given claimed sizes."""

    def integers(values):
        return b"(" + b"".join(b"L%dL\n" % value for value in values) + b"t"

    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\n" + b"L%dL\n" % numel + b"tQ"
    arguments = b"(" + storage + b"L%dL\n" % offset + integers(size) + integers(stride) + b"I00\n(dt"
    return b"\x80\x02}Vmodel\n}Va\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rss."


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ([10**12], [1], 0),
        ([10**12], [0], 0),  # one element, repeated 10^12 times by stride 0
        ([2, 3], [10**12, 1], 0),
        ([4], [1], 10**12),
        ([4], [1], -1),
        ([4], [-1], 3),
        ([-4], [1], 0),
        ([2**40, 2**40], [1, 1], 0),
        ([0, 2**70], [1, 1], 0),
        ([1] * 100, [1], 0),
        ([5], [1], 0),  # the storage has four elements
    ],
)
def test_claims_of_tensors_are_compared_with_the_file(tmp_path, size, stride, offset):
    path = tmp_path / "a.ckpt"
    torch.save({"model": {"a": torch.arange(4.0)}}, path)
    changed_pickle(path, lambda _: persistent(4, [4], [1]))
    assert read(path)[0]["a"].tolist() == [0, 1, 2, 3]  # the pickle with correct sizes is valid
    changed_pickle(path, lambda _: persistent(10**12, size, stride, offset))
    with pytest.raises(LassError, match="damaged or something else") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_many_names_for_one_storage_are_refused(save):
    shared = torch.zeros(100_000)
    assert len(read(save({"model": {"a": shared, "tied": shared}}))[0]) == 2
    with pytest.raises(LassError, match="claim more than the file holds"):
        read(save({"model": {str(i): shared for i in range(100)}}))


def test_bombs_stay_small(tmp_path, monkeypatch):
    """Exponential references, deep nesting, large memo indices, and more objects than any real checkpoint."""
    path = tmp_path / "a.ckpt"
    torch.save({"model": {"a": torch.arange(4.0)}}, path)
    monkeypatch.setattr("lass.importers.pickles.MAX_OPERATIONS", 60_000)
    doubling = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(200)) + b"."
    deep = b"(" * 20_000 + b"t" * 20_000 + b"."
    deep_key = b"}" + b")" + b"\x85" * 50_000 + b"Vx\ns."  # hashing it would overflow the C stack
    memo = b"]r\xff\xff\xff\xff."
    text = b"X\xff\xff\xff\xff" + b"a."
    number = b"\x8b\xff\xff\xff\x7f" + b"1."
    for bomb in (doubling, deep, deep_key, memo, text, number, b"", b"\x80\x02", b"]" * 100_000 + b"."):
        changed_pickle(path, lambda _, bomb=bomb: bomb)
        with pytest.raises(LassError) as error:
            read(path)
        assert len(str(error.value)) < 400
        assert "\n" not in str(error.value)


def test_other_files_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"model": {"a": torch.arange(4.0)}}, path)
    whole = path.read_bytes()
    torch.save({"model": {"a": torch.arange(4.0)}}, path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    save_file({"a": torch.arange(4.0)}, path)
    safe = path.read_bytes()
    compressed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as other:
        for info in archive.infolist():
            other.writestr(info.filename, archive.read(info))
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("../../evil", "1")
    files = [whole[:n] for n in (1, 50, 300, len(whole) // 2, len(whole) - 1)]
    files += [legacy[:n] for n in (1, 10, 30, len(legacy) // 2, len(legacy) - 1)]
    files += [safe[:n] for n in (9, 20, len(safe) - 1)]
    files += [b"", b"<html>not found</html>", bytes(1000), b"\xff" * 1000, compressed.getvalue(), empty.getvalue()]
    files += [struct.pack("<Q", 2**62) + b"{}"]  # safetensors header with a claimed length of 2^62 bytes
    for content in files:
        path.write_bytes(content)
        with pytest.raises(LassError, match=r"damaged or something else|no checkpoint of") as error:
            read(path)
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)
    for content in ({"model": 1}, {"model": {}}, {}, {"model": {"a": 1}}, {"other": torch.ones(1), "b": 1}):
        torch.save(content, path)
        with pytest.raises(LassError, match="no checkpoint of the program: expected a dictionary"):
            read(path)
    with pytest.raises(LassError, match="There is no checkpoint at"):
        read(tmp_path)  # a folder


def test_any_flipped_byte_gives_weights_or_one_sentence(save):
    """Corrupted files raise `LassError` only."""
    path = save({"model": {"a": torch.arange(4.0)}, "hps": {"rate": 2}})
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for position in torch.randint(len(whole), (300,), generator=generator).tolist():
        changed = bytearray(whole)
        changed[position] ^= int(torch.randint(1, 256, (), generator=generator))
        path.write_bytes(changed)
        with contextlib.suppress(LassError):
            assert all(tensor.nbytes <= len(whole) for tensor in read(path)[0].values())


def test_modules_take_no_more_memory_than_their_weights(tmp_path):
    weights = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    module = fill(nn.Linear, {"in_features": 3, "out_features": 2}, weights, "a.ckpt")
    assert module.weight.data_ptr() == weights["weight"].data_ptr()
    with pytest.raises(LassError, match="weight is 2×3 instead of 1000000×1000000000"):
        fill(nn.Linear, {"in_features": 10**9, "out_features": 10**6}, weights, "a.ckpt")
    with pytest.raises(LassError, match="holds no Linear"):
        fill(nn.Linear, {"in_features": 2**62, "out_features": 2**62}, weights, "a.ckpt")
    with pytest.raises(LassError, match=r"NaN or infinite weights \(bias\)"):
        fill(nn.Linear, {"in_features": 3, "out_features": 2}, {**weights, "bias": torch.tensor([0, torch.nan])}, "a")
