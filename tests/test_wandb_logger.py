"""Weights & Biases without a question: which mode a run gets."""

from __future__ import annotations

import pytest
import wandb

from lass.report.wandb_logger import WandbLogger, is_logged_in


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A machine on which nobody has logged in."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def mode_of(logger: WandbLogger) -> str:
    return logger._wandb_init["mode"]


def test_a_run_is_offline_without_a_login(tmp_path, capfd):
    assert not is_logged_in()
    logger = WandbLogger("digits", "prior", save_dir=str(tmp_path / "run"))
    assert mode_of(logger) == "offline"
    logger.log_metrics({"x": 1.0})
    assert logger.experiment.settings.mode == "offline"
    wandb.finish()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert "WARNING" not in capfd.readouterr().err


def test_a_run_is_online_with_a_key(monkeypatch, nobody, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert mode_of(WandbLogger("digits", "prior", save_dir=str(tmp_path))) == "online"
    monkeypatch.delenv("WANDB_API_KEY")
    nobody.write_text("machine api.wandb.ai login user password secret\n")
    assert mode_of(WandbLogger("digits", "prior", save_dir=str(tmp_path))) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    assert mode_of(WandbLogger("digits", "prior", save_dir=str(tmp_path))) == "offline"
    nobody.write_text("not a netrc file")
    assert not is_logged_in()


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_the_variable_decides(monkeypatch, tmp_path, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert mode_of(WandbLogger("digits", "prior", save_dir=str(tmp_path))) == mode


def test_disabled_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger("digits", "prior", save_dir=str(tmp_path))
    logger.log_metrics({"x": 1.0})
    wandb.finish()
    assert not list(tmp_path.glob("wandb/*run*"))
