"""Mode of a Weights & Biases run (online, offline, disabled), which is chosen without prompts."""

from __future__ import annotations

import socket
import threading

import pytest
from wandb_runs import finish_run

from lass.errors import LassError
from lass.report.wandb_logger import WandbLogger, is_logged_in, is_reachable


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """Environment without credentials for Weights & Biases."""
    for name in (
        "WANDB_API_KEY",
        "WANDB_MODE",
        "WANDB_BASE_URL",
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
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
    finish_run()
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
    finish_run()
    assert not list(tmp_path.glob("wandb/*run*"))


@pytest.fixture
def silent_server():
    """Addresses of a server that accepts connections without answering, and of one that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as there, socket.create_server(("127.0.0.1", 0)) as gone:
        addresses = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in (there, gone)]
        gone.close()
        yield addresses


def test_a_server_is_reachable_if_it_takes_a_connection(silent_server, monkeypatch):
    there, gone = silent_server
    assert is_reachable(there, patience=30)
    assert not is_reachable(gone)
    assert not is_reachable("https://no-such-host.invalid")
    assert not is_reachable("http://[not-an-address")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", there)
    assert is_reachable("http://no-such-host.invalid", patience=30)  # resolved by the proxy


def test_a_name_that_takes_long_to_look_up_is_not_waited_for(monkeypatch):
    asked, may_end = [], threading.Event()

    def forever(*args, **kwargs):
        asked.append(args)
        may_end.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", forever)
    assert not is_reachable("https://api.wandb.ai", patience=0.1)
    assert asked
    assert not may_end.is_set()  # the lookup is still running, and was not awaited
    may_end.set()


def experiment_of(tmp_path, caplog):
    """Log one number, and return the messages and the mode of the run."""
    logger = WandbLogger("digits", "prior", save_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()  # an unused logger writes nothing
    logger.finalize("success")  # of a run that logged nothing
    logger.log_metrics({"x": 1.0})
    mode = logger.experiment.settings.mode
    finish_run()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    return mode, [record.getMessage() for record in caplog.records if "Weights & Biases" in record.getMessage()]


def test_a_run_goes_on_offline_if_the_server_is_out_of_reach(monkeypatch, tmp_path, caplog, silent_server):
    caplog.set_level("INFO")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server[1])
    mode, said = experiment_of(tmp_path, caplog)
    assert mode == "offline"
    assert len(said) == 1
    assert said[0] == "Weights & Biases: this run is offline, as 127.0.0.1 cannot be reached."


def test_a_run_goes_on_offline_if_the_key_is_refused(monkeypatch, tmp_path, caplog, silent_server):
    caplog.set_level("INFO")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    monkeypatch.setenv("WANDB_BASE_URL", silent_server[0])
    mode, said = experiment_of(tmp_path, caplog)
    assert mode == "offline"
    assert len(said) == 1
    assert "offline, as the server refused it (" in said[0]


def test_online_without_a_key_never_asks(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked"))
    monkeypatch.setenv("WANDB_MODE", "online")
    mode, said = experiment_of(tmp_path, caplog)
    assert mode == "offline"
    assert len(said) == 1
    assert "there is no key" in said[0]


@pytest.mark.parametrize("inside", [True, False])
def test_the_end_of_an_offline_run_names_its_folder_and_the_command(tmp_path, monkeypatch, caplog, inside):
    caplog.set_level("INFO")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path if inside else tmp_path / "elsewhere")
    logger = WandbLogger("digits", "prior", save_dir=str(tmp_path / "my run"))
    logger.log_metrics({"x": 1.0})
    logger.finalize("success")
    finish_run()
    (said,) = [record.getMessage() for record in caplog.records if "Weights & Biases" in record.getMessage()]
    (folder,) = (tmp_path / "my run" / "wandb").glob("offline-run-*")
    shown = folder.relative_to(tmp_path) if inside else folder
    assert said == f"Weights & Biases: this run is offline, `wandb sync '{shown}'` uploads it."


def test_the_end_of_an_online_run_is_its_address(tmp_path, caplog):
    class Online:
        disabled, offline, url = False, False, "https://wandb.example/me/lass/runs/1"

    caplog.set_level("INFO")
    logger = WandbLogger("digits", "prior", save_dir=str(tmp_path))
    logger._experiment = Online()
    logger.finalize("failed")
    assert caplog.messages == ["Weights & Biases: the run is at https://wandb.example/me/lass/runs/1"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WANDB_MODE", "onlin", "WANDB_MODE must be online, offline or disabled, not 'onlin'."),
        ("WANDB_BASE_URL", "nonsense", "WANDB_BASE_URL='nonsense'"),
        ("WANDB_API_KEY", " x", "API key cannot start or end with whitespace"),
        ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT='soon'"),
        ("WANDB_RESUME", "perhaps", "WANDB_RESUME='perhaps'"),
        ("WANDB_SILENT", "maybe", "WANDB_SILENT='maybe'"),
        ("WANDB_RUN_ID", "a/b", "Run ID cannot contain"),
        ("WANDB_PROJECT", "a/b", "Invalid project name 'a/b'"),
    ],
)
def test_a_variable_that_wandb_refuses_is_one_sentence(monkeypatch, tmp_path, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(LassError) as error:
        WandbLogger("digits", "prior", save_dir=str(tmp_path / "run"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
