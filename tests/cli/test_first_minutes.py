"""What a new user sees: help, version, one line of progress, no noise, sensible numbers of threads."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from importlib.metadata import version

import pytest
import torch
from chain import words
from pytorch_lightning import LightningModule, Trainer
from tqdm import tqdm
from wandb_runs import finish_run

from lass.cli import separate
from lass.cli.main import COMMANDS, HELP, main
from lass.cli.quiet import LOGGERS, hide, silence
from lass.cli.threads import cpu_quota, num_threads, set_up_threads
from lass.report.progress import FORMAT, RunProgressBar

COLUMNS = 80


@contextmanager
def terminal():
    """Context with the file descriptor of a terminal of 80 columns, and a list that finally holds what it was sent."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    chunks, sent = [], []

    def read():
        try:
            while chunk := os.read(master, 4096):
                chunks.append(chunk)
        except OSError:  # all writers have closed it
            pass

    reader = threading.Thread(target=read)
    reader.start()
    yield slave, sent
    os.close(slave)
    reader.join()
    os.close(master)
    sent.append(re.sub(r"\x1b\[\w", "", b"".join(chunks).decode()))


def lines(text):
    """Return all versions of all lines of a text with carriage returns."""
    return [part.rstrip() for part in re.split(r"[\r\n]+", text) if part.strip()]


def test_help_names_every_command_and_imports_neither_torch_nor_matplotlib():
    assert all(re.search(rf"^  .*\b{command}\b", HELP, re.MULTILINE) for command in COMMANDS)
    code = """
import sys
from lass.cli.main import main
main(["--help"])
main(["--version"])
try:
    main(["separate", "--help"])
except SystemExit as stopped:
    assert not stopped.code
print({"torch", "matplotlib", "pytorch_lightning", "wandb"} & set(sys.modules))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert HELP in said
    assert f"\nlass {version('lass')}\n" in said
    assert "--fit crop|pad" in said
    assert said.endswith("set()\n")


def test_a_stage_prints_few_lines_and_one_bar(repository, tmp_path):
    """In a process of its own, as Python shows a warning once, and in a terminal for both streams."""
    options = ["--trainer.enable_progress_bar=true", "--trainer.max_epochs=2"]
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    with terminal() as (fd, sent):
        command = [sys.executable, "-m", "lass.cli", *words(repository, "vqvae", *options)]
        subprocess.run(command, cwd=tmp_path, stdout=fd, stderr=fd, env=environment, check=True)
    said = lines(sent[0])
    bars = [line for line in said if re.match(r"(Epoch \d/2|(Training|Validation|Checking the validation)) \|", line)]
    others = [line for line in said if line not in bars]
    assert re.fullmatch(r"Training: ImageVQVAE, [\d,]+ parameters\.", others[0])
    assert re.fullmatch(r"runs/digits/vqvae/codec is the version of step \d+ \(not validated\)\.", others[1])
    assert len(others) == 2
    assert max(map(len, bars)) < COLUMNS
    assert bars[-1].startswith("Epoch 2/2 |")
    assert sent[0].count("\n") < 8  # lines of the terminal


@pytest.mark.parametrize(
    ("stage", "score", "options"),
    [
        ("prior", "nats_per_code", ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"]),
        ("likelihood", "coverage", ["--trainer.max_epochs=1"]),
        ("separate", "", ["--data.num_mixtures=2"]),
    ],
)
def test_the_bar_of_a_stage_fits_in_80_columns(chain, repository, monkeypatch, stage, score, options):
    options += ["--trainer.enable_progress_bar=true", f"--trainer.default_root_dir=runs/bar/{stage}"]
    with terminal() as (fd, sent), open(fd, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        try:
            main(words(repository, stage, "--trainer.logger=false", *options))
        finally:
            finish_run()
    bars = [line for line in lines(sent[0]) if re.match(r"(Training|Epoch|Validation|Separating|Encoding).*\|", line)]
    assert bars
    assert max(map(len, bars)) < COLUMNS
    if score:
        assert re.search(rf", {score}=-?[\d.e]+\]$", bars[-1])


def test_the_longest_bars_fit_in_80_columns():
    """Bars of the stages that are not run here: names as logged by their tasks, an hour an epoch."""

    class Logged(Trainer):
        @property
        def progress_bar_metrics(self):
            return {"train/loss": -12.3456, "val/si_sdr_db": -10.2345}

    scores = RunProgressBar().get_metrics(Logged(logger=False, enable_checkpointing=False), LightningModule())
    assert scores == {"loss": "-12.3", "si_sdr_db": "-10.2"}
    postfix = ", ".join(f"{name}={value}" for name, value in scores.items())
    line = tqdm.format_meter(
        999, 1000, 3700.0, prefix="Epoch 99/100 ", postfix=postfix, ncols=COLUMNS - 1, bar_format=FORMAT
    )
    assert "loss=-12.3, si_sdr_db=-10.2]" in line
    assert len(line) < COLUMNS


@pytest.mark.parametrize(
    ("message", "is_shown"),
    [
        ("GPU available: False, used: False", False),
        ("GPU available: True (cuda), used: True", True),
        ("Seed set to 0", False),
        ("\nDetected KeyboardInterrupt, attempting graceful shutdown ...", False),
        ("💡 Tip: For seamless cloud logging", False),
        ("`Trainer.fit` stopped: `max_epochs=2` reached.", False),
        ("Time limit reached. Elapsed time is 0:00:10. Signaling Trainer to stop.", True),
        ("Restoring states from the checkpoint path at last.ckpt", True),
    ],
)
def test_only_messages_without_use_are_hidden(message, is_shown):
    silence()
    record = logging.LogRecord(LOGGERS[0], logging.INFO, "", 0, message, None, None)
    assert all(bool(logging.getLogger(name).filter(record)) == is_shown for name in LOGGERS)


def test_hiding_twice_adds_one_filter():
    hide("a message of this test")
    before = len(logging.getLogger(LOGGERS[0]).filters)
    hide("a message of this test")
    assert len(logging.getLogger(LOGGERS[0]).filters) == before


# Threads


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


def test_threads_are_those_of_the_user_or_of_the_container(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lass.cli.threads.affinity", lambda: 64)
    monkeypatch.setattr("lass.cli.threads.cpu_quota", lambda: None)
    set_up_threads()
    assert num_threads() == 64
    assert "OMP_NUM_THREADS" not in os.environ  # so that Lightning divides the CPUs among its processes
    assert os.environ.pop("GOMP_SPINCOUNT") == "1000"
    monkeypatch.setattr("lass.cli.threads.cpu_quota", lambda: 3)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    set_up_threads()
    assert num_threads() == 3
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    set_up_threads()
    assert num_threads() == 5


def test_the_option_sets_the_threads(monkeypatch):
    counts = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    with pytest.raises(ValueError, match="There is no separator nowhere"):
        separate.main(["separate", "a.png", "--separator=nowhere", "--threads=3"])
    assert counts == [3]
