"""Fixtures of all tests, and the environment of a test process.

A process uses one thread unless OMP_NUM_THREADS is set, as pytest-xdist runs several. Weights & Biases has no network.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"

import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
REPOSITORY = Path(__file__).parent.parent
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "benchmarks")]  # benchmarks: the literal Algorithm 1

from simulated_device import DEVICES, REFUSED_IN_BACKWARD, SIMULATED  # noqa: E402 (found through the path above)


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.gpu] * (name == "cuda")) for name in DEVICES])
def device(request, monkeypatch):
    """Name of a device; runs a test on every available device and on the simulated one."""
    monkeypatch.setattr("lass.devices.numerics.WITHOUT_FLOAT64", {"mps", SIMULATED})
    yield request.param
    refused = REFUSED_IN_BACKWARD.copy()
    REFUSED_IN_BACKWARD.clear()
    assert not refused


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    """Names that examples in docstrings can use without an import."""
    doctest_namespace["torch"] = torch


@pytest.fixture
def repository() -> Path:
    """Root folder of the repository, with experiments/ and the Makefile."""
    return REPOSITORY


@pytest.fixture(scope="session")
def chain_folder(tmp_path_factory):
    """Folder in which all four stages have run at reduced size."""
    from chain import SMALL, lass

    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in SMALL:
            lass(REPOSITORY, stage)
    return folder


@pytest.fixture
def chain(chain_folder, monkeypatch):
    """Working directory in which all four stages have run; see `chain_folder`."""
    monkeypatch.chdir(chain_folder)
    return chain_folder


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory):
    """File of random weights with the shapes of Inception's."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    class Empty(NoTrainInceptionV3):
        def load_state_dict(self, state):
            """Keep the random weights."""

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    torch.save(Empty("inception-v3-compat", ["2048"], str(path)).state_dict(), path)
    return path
