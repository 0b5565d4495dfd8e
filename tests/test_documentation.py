"""README, pages in docs/ and notebooks: all Python in them runs, all commands exist, and all links lead somewhere."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import REPOSITORY
from fake_hub import TOKEN, fake_hub
from test_configs import parsed
from test_packaging import few_candidates, make

from lass.cli.main import COMMANDS, STAGES
from lass.samplers import SequentialMonteCarlo

SOURCES = [
    REPOSITORY / "README.md",
    *sorted(REPOSITORY.glob("docs/**/*.md")),
    *sorted(REPOSITORY.glob("docs/**/*.ipynb")),
]
SOURCES = [path for path in SOURCES if "_build" not in path.parts]


class Block(NamedTuple):
    """A block of code; `file` is the path in its caption, if it has one, and the block is the content of this file."""

    language: str
    file: str | None
    code: str


def blocks_of(path):
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return [Block("python", None, "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    fence = r"^```(?:\{code-block\} )?(\w+)\n(?::caption: (\S+)\n\n)?(.*?)^```$"
    return [Block(*found) for found in re.findall(fence, path.read_text(), re.DOTALL | re.MULTILINE)]


def pages_with(language):
    """Parameters of a test: the pages that have a block of this language which is not the content of a file."""
    pages = [path for path in SOURCES if any(b.language == language and not b.file for b in blocks_of(path))]
    return [pytest.param(path, id=str(path.relative_to(REPOSITORY))) for path in pages]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """Return a function that makes the working directory of a page.

    It is a repository with copies of what commands and examples read, with models that take little time, and with
    the files that the page tells the reader to write. Those in src/lass can be imported.
    """

    def open_for(page):
        for name in ("Makefile", "setup.cfg", "pyproject.toml", "docs", "benchmarks"):
            (tmp_path / name).symlink_to(REPOSITORY / name)
        shutil.copytree(REPOSITORY / "experiments", tmp_path / "experiments")
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv/installed").touch()
        few_candidates(REPOSITORY, tmp_path / "pretrained/mnist")
        (tmp_path / "mnist").symlink_to("pretrained/mnist")  # a folder takes precedence over the published model
        for block in blocks_of(page):
            if block.file:
                path = tmp_path / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.code)
                if path.parts[-len(Path(block.file).parts) :][:2] == ("src", "lass"):
                    package = importlib.import_module(".".join(Path(block.file).parts[1:-1]))
                    monkeypatch.setattr(package, "__path__", [*package.__path__, str(path.parent)])
        few = SequentialMonteCarlo(4)
        monkeypatch.setattr("lass.separation.num_sources.SequentialMonteCarlo", lambda num_candidates: few)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return open_for


def save_digits_separator():
    """Write a small separator where the demo writes its own."""
    import torch

    from lass import Separator, SparseCounts
    from lass.codecs import ImageVQVAE
    from lass.priors import TransformerPrior
    from lass.samplers import TopK
    from lass.separation import LatentDescent

    torch.manual_seed(0)
    counts = SparseCounts(16)
    counts.add(*torch.randint(16, (3, 2000)))
    Separator(
        ImageVQVAE((1, 16, 16), num_codes=16, width=8),
        TransformerPrior(16, 16, dim=8, num_layers=1),
        counts.likelihood(),
        TopK(8, k=4),
        refinement=LatentDescent(steps=2),
    ).save_pretrained("runs/digits/separate/separator")


def with_shapes_asserted(code):
    """Replace expressions with a shape in their comment, `x  # (2, 3), …`, by assertions of this shape."""

    def replace(match):
        try:
            ast.parse(match["value"], mode="eval")
        except SyntaxError:  # an assignment
            return match[0]
        return f"assert ({match['value']}).shape == {match['shape']}, ({match['value']}).shape"

    return re.sub(r"^(?P<value>\S.*)  # (?P<shape>\(\d+,[\d ,]*\)).*$", replace, code, flags=re.MULTILINE)


def test_shapes_in_comments_are_asserted():
    import torch

    code = "x = torch.zeros(2, 3)  # (2, 4)\nx[0]  # (3,), a row\nx.sum()  # a number"
    exec(with_shapes_asserted(code), {"torch": torch})
    with pytest.raises(AssertionError, match=r"\[2, 3\]"):
        exec(with_shapes_asserted(code + "\nx  # (3, 2)"), {"torch": torch})


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_runs(page, workshop, monkeypatch):
    """Run all Python blocks of a page in order, as one module, with a Hugging Face Hub of its own."""
    folder = workshop(page)
    save_digits_separator()
    name = "page_" + re.sub(r"\W", "_", str(page.relative_to(REPOSITORY).with_suffix("")))
    code = [with_shapes_asserted(b.code) for b in blocks_of(page) if b.language == "python" and not b.file]
    Path(f"{name}.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(folder)
    with fake_hub(monkeypatch, folder / "hub"):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        importlib.import_module(name)


@pytest.mark.parametrize("page", pages_with("sh"))
def test_commands_exist(page, workshop):
    """Parse every command of a page; commands of make are parsed as the lines that they would run."""
    folder = workshop(page)
    inline = re.findall(r"`((?:make|lass) [^`…$]*=[^`…$]*)`", page.read_text()) if page.suffix == ".md" else []
    text = "\n".join([*(block.code for block in blocks_of(page) if block.language == "sh"), *inline])
    commands = [shlex.split(line, comments=True) for line in text.replace("\\\n", "").splitlines()]
    for words in filter(None, commands):
        if words[0] != "make":
            check_command(words)
            continue
        run = make(folder, *words[1:])
        assert run.returncode == 0, (words, run.stderr)
        for line in run.stdout.splitlines():
            program, _, arguments = line.partition(" ")
            if program.endswith("bin/lass"):
                check_command(["lass", *shlex.split(arguments)])
            if program.endswith("bin/python") and arguments.startswith("-m lass."):
                check_command(["python", *shlex.split(arguments)])


def check_command(words):
    """Fail unless a command and all its options exist."""
    program, *arguments = words
    if program == "lass":
        module = importlib.import_module(COMMANDS[arguments[0]])
        if COMMANDS[arguments[0]] == STAGES:
            parsed(*arguments)
        else:
            module.parser().parse_args(arguments[1:])
    elif program == "python":
        assert arguments[0] == "-m", words
        module = importlib.import_module(arguments[1])
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{arguments[1]}.__main__")
        module.parser().parse_args(arguments[2:])
    elif program == "pip":
        setup = configparser.ConfigParser()
        setup.read(REPOSITORY / "setup.cfg")
        (extras,) = re.fullmatch(r"install \.(?:\[([\w,]+)\])?", " ".join(arguments)).groups()
        assert set((extras or "train").split(",")) <= set(setup["options.extras_require"]), words
    else:
        assert words in ([".", ".venv/bin/activate"],), f"unknown command: {words}"


def test_the_example_of_a_table_is_a_row_of_it():
    import yaml

    page = REPOSITORY / "docs/tables.md"
    (name,) = re.findall(r"an entry in `(\S+)`:", page.read_text())
    (block,) = [block for block in blocks_of(page) if block.language == "yaml"]
    (row,) = yaml.safe_load(block.code)
    rows = [row for part in yaml.safe_load((REPOSITORY / name).read_text())["parts"] for row in part["rows"]]
    assert row in rows


def test_the_example_of_a_method_is_evaluated(workshop):
    """Follow the page: write its two files, run its command, and compare with a computation by hand."""
    import torch
    from wandb_runs import finish_run

    from lass.cli.main import main
    from lass.data.images.digits import Digits
    from lass.metrics import psnr
    from lass.report.results import ResultsFolder

    page = REPOSITORY / "docs/extend/method.md"
    folder = workshop(page)
    (words,) = re.findall(r"^make (\S+ METHOD=halves)", page.read_text(), re.MULTILINE)
    options = "ARGS=--data.num_mixtures=4 --model.method.position=0.25"
    lines = make(folder, *words.split(), options).stdout.splitlines()
    (command,) = [line for line in lines if "bin/lass predict" in line]
    try:
        main([*shlex.split(command)[1:], "--trainer.enable_progress_bar=false"])
    finally:
        finish_run()

    settings = json.loads(Path("runs/digits/halves/settings.json").read_text())
    assert (settings["method"], settings["method.position"]) == ("lass.methods.halves.Halves", 0.25)
    stored = "experiments/digits/test_mixtures.csv"
    (batch,) = Digits(4, num_validation=200, mixtures=stored, num_mixtures=4).predict_dataloader()
    for index, sources in enumerate(batch.signals):
        left, right = 2 * sources.mean(0, keepdim=True).repeat(2, 1, 1, 1)
        left[..., 4:], right[..., :4] = 0, 0
        scores = [psnr(torch.stack(order), sources).mean().item() for order in ((left, right), (right, left))]
        tensors, row = ResultsFolder("runs/digits/halves").read(index)
        assert row["psnr_db"] == pytest.approx(max(scores), abs=1e-3)
        assert tensors.keys() == {"estimates"}


def test_links_of_the_readme_lead_somewhere():
    """`make docs` checks those of the pages."""
    text = (REPOSITORY / "README.md").read_text()
    links = re.findall(r'(?:\]\(|src=")(?!https?:)([^)#"]+)', text)
    assert len(links) > 5
    assert not [link for link in links if not (REPOSITORY / link).exists()]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".ipynb"], ids=lambda path: path.stem)
def test_notebooks_are_clean_and_know_their_repository(path):
    notebook = json.loads(path.read_text())
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
    (repository,) = re.findall(r'"GITHUB_REPOSITORY", "(\S+)"', (REPOSITORY / "docs/conf.py").read_text())
    assert f"https://github.com/{repository} " in "".join(notebook["cells"][1]["source"])
