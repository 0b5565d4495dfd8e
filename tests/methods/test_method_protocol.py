"""Protocol of separation methods: its defaults, its checks, and the classes that the command line accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from jaxtyping import Float
from test_configs import parsed
from torch import Tensor, nn

from lass import LassError, SeparationResult, Separator
from lass.methods import Average, SeparationMethod
from lass.methods.protocol import checked_estimates, groups_of, identity_of
from lass.samplers import TopK


class Plain:
    """Without annotations."""

    def __init__(self, share: float = 0.5, names: Sequence[str] = ("a", "b")):
        self.share, self.names, self._private = share, list(names), object()

    def separate_batch(self, mixtures, conditions=None, *, seed=0, indices=None):
        return SeparationResult(torch.stack([mixtures, mixtures], 1))


class WithShapes(Plain):
    """With annotations that are more precise than those of the protocol."""

    def separate_batch(
        self,
        mixtures: Float[Tensor, "mixtures channels *space"],
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: list[int] | None = None,
        more: int = 3,
    ) -> SeparationResult:
        return super().separate_batch(mixtures)


class WithoutIndices:
    def separate_batch(self, mixtures, conditions=None, *, seed=0):
        return SeparationResult(torch.stack([mixtures, mixtures], 1))


@dataclass(frozen=True, slots=True)
class Roles:
    share: float = 0.5

    def separate_batch(self, mixtures, conditions=None, *, seed=0, indices=None):
        return SeparationResult(torch.stack([mixtures, mixtures], 1))

    def exchangeable(self, conditions, num_mixtures):
        return torch.arange(2).expand(num_mixtures, -1)


class Learned(nn.Module):
    def __init__(self, weight=1.0):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        nn.init.constant_(self.layer.weight, weight)
        nn.init.zeros_(self.layer.bias)

    def separate_batch(self, mixtures, conditions=None, *, seed=0, indices=None):
        return SeparationResult(torch.stack([mixtures, mixtures], 1))


def test_methods_are_recognised():
    assert issubclass(Separator, SeparationMethod)
    assert all(isinstance(method, SeparationMethod) for method in (Average(), Plain(), Roles(), Learned()))
    assert not isinstance(TopK(), SeparationMethod)


@pytest.mark.parametrize("name", ["Plain", "WithShapes", "Roles", "Learned"])
def test_the_command_line_takes_methods_with_any_annotations(name):
    config = evaluation_of(f"{__name__}.{name}")
    assert config.model.init_args.method.class_path == f"{__name__}.{name}"
    assert config.data.class_path == "lass.data.images.mnist.MNIST"  # that of separate.yaml


def evaluation_of(class_path):
    folder = REPOSITORY / "experiments" / "mnist"
    layers = ["-c", str(folder / "separate.yaml"), "-c", str(folder / "methods/average.yaml")]
    return parsed("predict", *layers, f"--model.method={class_path}")


@pytest.mark.parametrize(
    ("class_path", "words"),
    [
        (f"{__name__}.WithoutIndices", "must be a SeparationMethod, but .*WithoutIndices lacks its methods"),
        ("lass.samplers.TopK", "must be a SeparationMethod, but lass.samplers.TopK lacks its methods"),
        (
            "lass.methods.Averag",
            "the class lass.methods.Averag, which does not exist: did you mean lass.methods.Average",
        ),
    ],
)
def test_other_classes_are_refused_with_a_reason(class_path, words, monkeypatch):
    from lass.cli.main import main

    folder = REPOSITORY / "experiments" / "mnist"
    layers = ["-c", str(folder / "separate.yaml"), "-c", str(folder / "methods/average.yaml")]
    with pytest.raises(SystemExit, match=words):
        main(["predict", *layers, f"--model.method={class_path}"])


def test_identities_are_settings_and_weights():
    assert identity_of(Plain()) == {"share": 0.5, "names": ["a", "b"]}
    assert identity_of(Roles(share=0.2)) == {"share": 0.2}
    assert identity_of(Average(3)) == {"num_sources": 3}
    assert identity_of(Learned()) == identity_of(Learned())
    assert identity_of(Learned()) != identity_of(Learned(2.0))
    assert identity_of(Learned().train()) == identity_of(Learned().eval())


def test_tensors_of_a_method_are_fingerprinted():
    method, other = Plain(), Plain()
    method.dictionary, other.dictionary = torch.ones(3), torch.ones(3)
    assert identity_of(method) == identity_of(other)
    other.dictionary = torch.zeros(3)
    assert identity_of(method) != identity_of(other)


def test_a_method_may_name_settings_and_fingerprints():
    class Named(Plain):
        settings = {"share": 1}  # noqa: RUF012

        def fingerprints(self):
            return {"dictionary": "abc"}

    assert identity_of(Named()) == {"share": 1, "dictionary": "abc"}


def test_estimates_are_exchangeable_unless_the_method_says_otherwise():
    assert groups_of(Plain(), None, 3, 2).tolist() == [[0, 0]] * 3
    assert groups_of(Roles(), None, 3, 2).tolist() == [[0, 1]] * 3
    with pytest.raises(LassError, match=r"Roles.exchangeable gave groups of shape \(3, 2\): expected .* \(3, 4\)"):
        groups_of(Roles(), None, 3, 4)


def test_average_estimates_every_source_by_the_mixture():
    mixtures = torch.rand(3, 1, 4, 5)
    estimates = Average(4).separate_batch(mixtures, seed=3, indices=[1, 2, 3]).estimates
    assert estimates.shape == (3, 4, 1, 4, 5)
    for source in range(4):
        assert torch.equal(estimates[:, source], mixtures)
    with pytest.raises(LassError, match="num_sources must be an integer, at least 1, not 0"):
        Average(0)


def test_invalid_estimates_are_refused():
    mixtures = torch.rand(2, 1, 4)
    good = torch.rand(2, 3, 1, 4, dtype=torch.float64)
    assert checked_estimates(Plain(), SeparationResult(good), mixtures, 3, [5, 6]).dtype == torch.float32
    with pytest.raises(LassError, match=r"separate_batch returned a Tensor: expected lass.SeparationResult"):
        checked_estimates(Plain(), good, mixtures, 3, [5, 6])
    shapes = r"shape \(2, 3, 1, 4\) for 2 sources and mixtures of shape \(2, 1, 4\): expected \(2, 2, 1, 4\)"
    with pytest.raises(LassError, match=f"Plain gave estimates of {shapes}"):
        checked_estimates(Plain(), SeparationResult(good), mixtures, 2, [5, 6])
    for value in (torch.nan, torch.inf):
        good[1, 0, 0, 2] = value
        with pytest.raises(LassError, match="Plain gave NaN or infinite values for mixture 6: expected finite"):
            checked_estimates(Plain(), SeparationResult(good), mixtures, 3, [5, 6])


def test_attributes_that_cannot_be_compared_are_refused():
    method = Average()
    method.table = np.ones(3)
    other = Average()
    other.table = np.zeros(3)
    assert identity_of(method) != identity_of(other)
    method.folder = Path("runs")
    assert identity_of(method)["folder"] == "runs"
    method.function = len
    with pytest.raises(LassError, match=r"Average.function holds a builtin_function_or_method, which cannot be stored"):
        identity_of(method)
