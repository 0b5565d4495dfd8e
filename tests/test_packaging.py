"""Packaging: consistent environments, existing make targets, and imports in one direction."""

from __future__ import annotations

import ast
import configparser
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

STAGES = {"train-vqvae": "fit", "train-prior": "fit", "count": "fit", "separate": "predict"}


@pytest.fixture
def metadata(repository):
    parser = configparser.ConfigParser()
    parser.read(repository / "setup.cfg")
    return parser


def test_environment_and_setup_agree(repository, metadata):
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    extras = metadata["options.extras_require"]
    required = " ".join([metadata["options"]["install_requires"], *extras.values()]).split()
    required = [
        line for line in required if not line.startswith("jsonargparse>=")
    ]  # jsonargparse[signatures] includes it
    assert [line for line in pip if not line.startswith("--editable")] == required
    (python,) = [entry for entry in environment["dependencies"] if str(entry).startswith("python>=")]
    assert python.removeprefix("python") == metadata["options"]["python_requires"]


def test_the_installed_command_works():
    command = Path(sys.executable).with_name("lass")
    run = subprocess.run([command, "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert "Latent Autoregressive Source Separation" in run.stdout


BLOCKED = """
import importlib.machinery, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ModuleNotFoundError("No module named " + repr(spec.name), name=spec.name)

sys.meta_path.insert(0, Blocked())
"""


def packages_of(requirements):
    """Import names of the packages in a list of requirements."""
    others = {"pytorch-lightning": "pytorch_lightning", "scikit-learn": "sklearn", "torch-fidelity": "torch_fidelity"}
    names = [re.match(r"[\w-]+", line)[0] for line in requirements]
    return {others.get(name, name.replace("-", "_")) for name in names}


def few_candidates(repository, folder):
    """Make a copy of pretrained/mnist in `folder`, with a few candidates and steps of refinement."""
    folder.mkdir(parents=True)
    for path in (repository / "pretrained/mnist").iterdir():
        (folder / path.name).symlink_to(path)
    settings = json.loads((folder / "separator.json").read_text())
    settings["sampler"]["num_candidates"] = 8
    settings["refinement"]["steps"] = 2
    (folder / "separator.json").unlink()
    (folder / "separator.json").write_text(json.dumps(settings))


@pytest.mark.slow
def test_inference_needs_the_base_packages_only(repository, metadata, tmp_path):
    """`import lass` loads no extra, and `Separator` and `lass separate` run where none of the extras is installed."""
    extras = metadata["options.extras_require"]
    base = packages_of(metadata["options"]["install_requires"].split())
    optional = [line for name, lines in extras.items() if name != "dev" for line in lines.split()]
    blocked = packages_of(optional) - base - {"filelock"}  # torch itself needs filelock
    models, out = tmp_path / "models", tmp_path / "out"
    few_candidates(repository, models)
    program = (
        "import lass, sys; lass.Separator; lass.priors.HuggingFacePrior; print(*sys.modules)\n"
        + BLOCKED.format(blocked=blocked)
        + f"""
separator = lass.Separator.from_pretrained({str(models)!r})
separator.sampler = lass.samplers.Greedy()
separator.separate(lass.read_image("docs/mixture.png"))
"""
    )
    arguments = ["separate", "docs/mixture.png", f"--separator={models}", f"--out={out}"]
    program += f"from lass.cli.main import main\nmain({arguments!r})\n"
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert {path.name for path in out.iterdir()} == {"mixture-1.png", "mixture-2.png", "separations.png"}
    loaded = {name.partition(".")[0] for name in run.stdout.splitlines()[0].split()}
    assert "torch" in loaded
    assert not loaded & {*blocked, "matplotlib"}


def make(repository, *arguments, **environment):
    """Return the commands of a dry run of make, as if the environment were installed."""
    command = ["make", "--dry-run", "--old-file=.venv/installed", *arguments]
    return subprocess.run(
        command, cwd=repository, capture_output=True, text=True, env={**os.environ, "MAKEFLAGS": "", **environment}
    )


@pytest.mark.parametrize(
    ("target", "dataset"),
    [
        ("train-features", "celeba"),
        *itertools.product(STAGES, ["digits", "mnist", "celeba"]),
        *itertools.product(["count", "separate"], ["celebahq", "imagenet"]),
    ],
)
def test_make_runs_the_stage_of_the_dataset(repository, target, dataset):
    run = make(repository, target, f"DATASET={dataset}", "ARGS=--trainer.max_epochs=1 --x=y")
    assert run.returncode == 0, run.stderr
    (line,) = [line for line in run.stdout.splitlines() if "bin/lass" in line]
    config = re.search(r"-c (\S+)", line)[1]
    assert (repository / config).is_file()
    assert f"lass {STAGES.get(target, 'fit')} " in line
    assert line.endswith("--trainer.max_epochs=1 --x=y")


def test_make_evaluates_lints_tests_and_demonstrates(repository):
    for evaluate in (["eval-mnist"], ["eval", "DATASET=mnist"]):
        assert "lass predict -c experiments/mnist/separate.yaml" in make(repository, *evaluate).stdout
    assert all(tool in make(repository, "lint").stdout for tool in ("ruff check", "ruff format --check", "mypy"))
    assert "pytest" in make(repository, "test").stdout
    assert "sh experiments/digits/demo.sh .venv/bin/lass" in make(repository, "demo").stdout


def test_evaluation_takes_what_was_trained_and_else_what_is_shipped(repository, tmp_path):
    shutil.copy(repository / "Makefile", tmp_path)
    (tmp_path / "experiments/mnist").mkdir(parents=True)
    (tmp_path / ".venv").mkdir()
    for name in ("experiments/mnist/separate.yaml", "setup.cfg", "pyproject.toml", ".venv/installed"):
        (tmp_path / name).touch()
    for folder, expected in {"pretrained/mnist/prior": True, "runs/mnist/prior/prior": False}.items():
        (tmp_path / folder).mkdir(parents=True)
        lines = make(tmp_path, "eval-mnist", "ARGS=--data.num_mixtures=3").stdout.splitlines()
        (command,) = [line for line in lines if "bin/lass predict" in line]
        assert ("--model.priors=pretrained/mnist/prior " in command) == expected
        assert command.endswith(" --data.num_mixtures=3")  # last, so that it takes precedence
    quoted = "--model.sampler='{class_path: lass.samplers.TopK}'"
    lines = make(tmp_path, "eval-mnist", f"ARGS={quoted}").stdout.splitlines()
    assert [line for line in lines if line.endswith(quoted) and "bin/lass predict" in line]


def failing_make(repository, *arguments):
    """Return a run of make that ends with an error before it starts anything."""
    command = ["make", "--old-file=.venv/installed", *arguments]
    environment = {**os.environ, "MAKEFLAGS": ""}
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, env=environment)
    assert run.returncode != 0
    return run


def test_evaluation_takes_the_method_that_is_named(repository):
    lines = make(repository, "eval-mnist", "METHOD=average", "ARGS=--data.num_mixtures=3").stdout.splitlines()
    (command,) = [line for line in lines if "bin/lass predict" in line]
    layers = "-c experiments/mnist/separate.yaml -c experiments/mnist/methods/average.yaml"
    assert command.endswith(f"lass predict {layers} --data.num_mixtures=3")  # no options for the models of LASS
    assert "methods" not in make(repository, "separate", "DATASET=mnist").stdout.partition("bin/lass predict")[2]


def test_an_unknown_method_is_named(repository):
    run = failing_make(repository, "eval-mnist", "METHOD=nothing")
    methods = sorted(["lass", *(path.stem for path in repository.glob("experiments/mnist/methods/*.yaml"))])
    assert f"no method 'nothing' for mnist: expected one of {' '.join(methods)}, or a new file" in run.stdout


def test_an_unknown_network_is_named(repository):
    run = failing_make(repository, "train-supervised", "DATASET=slakh", "METHOD=average")
    assert "no network 'average' for slakh: expected one of conv-tasnet demucs or a new file" in run.stdout
    run = failing_make(repository, "train-supervised", "DATASET=mnist", "METHOD=demucs")
    assert (
        "no network 'demucs' for mnist: expected one of nes or a new file\n  experiments/mnist/demucs.yaml"
        in run.stdout
    )
    printed = make(repository, "train-supervised", "DATASET=slakh", "METHOD=demucs").stdout
    assert any(line.endswith("lass fit -c experiments/slakh/demucs.yaml ") for line in printed.splitlines())


def test_an_unknown_dataset_is_named(repository):
    run = failing_make(repository, "train-prior", "DATASET=nothing")
    datasets = sorted(path.parent.name for path in repository.glob("experiments/*/separate.yaml"))
    assert f"no experiment 'nothing': expected one of {' '.join(datasets)}" in run.stdout + run.stderr


@pytest.mark.parametrize("target", ["train-vqvae", "train-prior"])
def test_published_models_are_imported_not_trained(repository, target):
    run = failing_make(repository, target, "DATASET=imagenet")
    assert "The models of imagenet are published ones: import them, there is nothing to train." in run.stdout
    assert re.search("lass import taming .* --out runs/imagenet/taming\n", run.stdout)


def test_help_lists_every_target(repository):
    makefile = (repository / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*%?):", makefile, re.MULTILINE)) - {
        "demo-plan",
        "experiment",
        "method",
        "network",
        "settings-%",
        "trainable",
    }
    helped = make(repository, "help").stdout
    run = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0, helped
    for target in targets:
        assert re.search(rf"^  make {target} ", run.stdout, re.MULTILINE), target


def test_imports_point_one_way(repository):
    """samplers, likelihood, priors and codecs do not import Lightning or higher layers; data imports none of them."""
    rooms = ["codecs", "priors", "denoisers", "likelihood", "samplers", "hub", "separation", "methods", "tasks"]
    models = {"codecs", "priors", "likelihood", "samplers"}
    allowed = {
        "data": set(),
        "metrics": set(),
        "codecs": {"codecs"},
        "priors": {"priors"},
        "denoisers": {"denoisers"},
        "likelihood": {"likelihood"},
        "samplers": {"samplers"},
        "hub": {"hub"},
        "separation": {*models, "hub", "separation", "data"},
        "methods": {*models, "denoisers", "separation", "data", "methods"},
        "tasks": {*models, "denoisers", "separation", "methods", "data", "metrics", "report", "tasks"},
    }
    for room, others in allowed.items():
        for path in (repository / "src" / "lass" / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                for name in names:
                    if room in models or room in ("denoisers", "hub", "separation", "methods"):
                        assert not name.startswith("pytorch_lightning"), f"{path} imports {name}"
                    if (match := re.match(r"lass\.(\w+)", name)) and match[1] in rooms:
                        assert match[1] in others, f"{path} imports {name}"
