"""Bad command lines, disk errors and Ctrl-C give one sentence each; a folder is locked for one run at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from chain import SMALL, lass
from conftest import REPOSITORY
from dangerous import Dangerous
from safetensors.torch import save_file

from lass import LassError, Separator
from lass.artifacts import atomic_write, save_tensors
from lass.cli import separate, stages
from lass.cli.main import main
from lass.cli.run_folder import LOCK_FILE, locked
from lass.data.images.digits import Digits
from lass.errors import disk_error
from lass.report.results import ResultsFolder
from lass.tasks import Separation, VQVAETraining

STAGES = {
    **{stage: f"experiments/digits/{stage}.yaml" for stage in SMALL},
    "features": "experiments/celeba/features.yaml",
}


def command(stage, *options):
    """Return the command line of a stage with its config in experiments/digits."""
    name = "predict" if stage == "separate" else "fit"
    return [name, "-c", str(REPOSITORY / STAGES[stage]), "--trainer.enable_progress_bar=false", *options]


def sentence_of(arguments):
    """Return the sentence that the command prints before it exits with status 1."""
    with pytest.raises(SystemExit) as error:
        main(list(arguments))
    said = str(error.value)
    assert said.startswith("lass: ")
    assert "\n" not in said
    assert not any(word in said for word in ("Traceback", "<class", "NestedArg", "weights_only", "Parser key"))
    return said


@pytest.mark.parametrize(
    ("stage", "option", "words"),
    [
        # misspelt names
        ("separate", "--model.likelyhood_weight=1", "did you mean --model.likelihood_weight?"),
        ("separate", "--model.sampler.init_args.num_candidate=3", "did you mean --model.sampler.num_candidates?"),
        ("separate", "--model.sampler.num_candidats=3", "did you mean --model.sampler.num_candidates?"),
        ("separate", "--model.refinement.init_args.step=3", "did you mean --model.refinement.steps?"),
        ("separate", "--data.num_mixture=3", "did you mean --data.num_mixtures?"),
        ("separate", "--return_prediction=true", "did you mean --return_predictions?"),
        ("vqvae", "--model.codec.init_args.widht=3", "did you mean --model.codec.width?"),
        ("vqvae", "--model.linarity=3", "did you mean --model.linearity?"),
        ("vqvae", "--data.batchsize=3", "did you mean --data.batch_size?"),
        ("vqvae", "--trainer.max_epoch=3", "did you mean --trainer.max_epochs?"),
        ("vqvae", "--trianer.max_epochs=3", "did you mean --trainer.max_epochs?"),
        ("prior", "--modle.learning_rate=0", "did you mean --model.learning_rate?"),
        ("prior", "--data.sources.init_args.num_validatoin=3", "did you mean --data.sources.num_validation?"),
        ("prior", "--model.prior.init_args.num_layer=3", "did you mean --model.prior.num_layers?"),
        ("prior", "--trainer.logger.save_di=x", "did you mean --trainer.logger.save_dir?"),
        ("prior", "--ckpt=last", "did you mean --ckpt_path?"),
        ("prior", "--seed_everthing=1", "did you mean --seed_everything?"),
        ("likelihood", "--model.latent=true", "did you mean --model.latents?"),
        ("likelihood", "--data.tuple=true", "did you mean --data.tuples?"),
        ("features", "--model.temprature=1", "did you mean --model.temperature?"),
        ("prior", "--return_predictions=true", "it is one of `lass predict`"),
        ("prior", "--data.sources.x=3", "expected one of batch_size, mixtures, "),
        # names of classes
        ("separate", "--model.sampler=lass.samplers.Topk", "did you mean lass.samplers.TopK?"),
        ("separate", "--model.sampler=TopkK", "did you mean lass.samplers.TopK?"),
        ("separate", "--model.sampler.class_path=lass.samplers.TopKK", "did you mean lass.samplers.TopK?"),
        ("separate", "--model.refinement=lass.separation.LatentDecent", "did you mean lass.separation.LatentDescent?"),
        ("separate", "--model=lass.tasks.Separtion", "did you mean lass.tasks.Separation?"),
        ("prior", "--data=lass.tasks.EncodedSource", "did you mean lass.tasks.EncodedSources?"),
        ("vqvae", "--data=lass.data.digit.Digits", "did you mean lass.data.images.digits.Digits?"),
        ("vqvae", "--model=os.system", "must be a class path (LightningModule) or null, not os.system"),
        ("vqvae", "--model=nothing.at.All", "the class nothing.at.All, which does not exist"),
        ("vqvae", "--trainer.callbacks=[{class_path: pytorch_lightning.callbacks.EarlyStoppin}]", "EarlyStopping?"),
        # values of the wrong type
        ("separate", "--data.num_mixtures=1.5", "--data.num_mixtures must be an integer or null, not 1.5."),
        ("separate", "--data.predict_split=tset", "--data.predict_split must be test or validation, not tset."),
        ("separate", "--model.likelihood_weight=high", "--model.likelihood_weight must be a number, not high."),
        ("separate", "--model.seed=1.5", "--model.seed must be an integer, not 1.5."),
        ("separate", "--model.conditional=maybe", "--model.conditional must be true or false, not maybe."),
        (
            "separate",
            "--model.sampler.num_candidates=3.5",
            "--model.sampler.num_candidates must be an integer, not 3.5.",
        ),
        ("separate", "--model.source_names=3", "--model.source_names must be a list or null, not 3."),
        ("separate", "--model.refinement=3", "--model.refinement must be a class path (Refinement) or null, not 3."),
        ("vqvae", "--model.codec.width=x", "--model.codec.width must be an integer, not x."),
        ("vqvae", "--model.codec.init_args.image_shape=3", "--model.codec.image_shape must be a list, not 3."),
        ("vqvae", "--trainer.max_epochs=many", "--trainer.max_epochs must be an integer or null, not many."),
        ("vqvae", "--trainer.precision=12", "64-true, bf16 or null, not 12."),
        ("prior", "--model.prior.init_args.dim=abc", "--model.prior.dim must be an integer, not abc."),
        ("prior", "--seed_everything=1.5", "--seed_everything must be true or false or an integer, not 1.5."),
        ("likelihood", "--model.latents=2", "--model.latents must be true or false, not 2."),
        ("likelihood", "--data.num_workers=two", "--data.num_workers must be an integer, not two."),
        ("features", "--model.warmup_steps=1.5", "--model.warmup_steps must be an integer, not 1.5."),
        # missing or invalid values
        ("vqvae", "--model=lass.tasks.PriorTraining", "needs --model.prior"),
        ("prior", "--trainer.max_epochs", "--trainer.max_epochs: expected one argument"),
        ("prior", "stray", "'stray' is no option"),
        (
            "prior",
            "--seed_everything=-1",
            "--seed_everything must be an integer, at least 0, at most 4294967295, not -1.",
        ),
        ("separate", f"--seed_everything={2**32}", "at most 4294967295, not 4294967296."),
        ("vqvae", "--trainer.check_val_every_n_epoch=0", "at least 1, not 0."),
        ("vqvae", "--trainer.accelerator=none", "invalid accelerator name"),
        ("vqvae", "--trainer.max_epochs=-5", "You passed in -5."),
        ("vqvae", "--data.batch_size=0", "batch_size must be an integer, at least 1, not 0."),
        ("vqvae", "--data.split_seed=-1", "split_seed must be an integer, at least 0"),
        ("vqvae", "--data.num_workers=-1", "num_workers must be an integer, at least 0, not -1."),
        ("separate", "--ckpt_path=last", "`lass predict` reads no checkpoint"),
    ],
)
def test_a_mistaken_option_is_one_sentence(stage, option, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in sentence_of(command(stage, option))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "A command is missing: expected one of app, fit, import, predict, "),
        (["seperate", "a.png"], "did you mean separate?"),
        (["fit"], "`lass fit` needs --data and --model"),
        (["predict", "-c"], "expected one argument"),
        (["separate"], "required: mixtures; see `lass separate --help`."),
        (["separate", "--seed=x", "a.png"], "--seed must be an integer, not x; see `lass separate --help`."),
        (["import", "tamming"], "invalid choice: 'tamming'"),
        (["import", "taming"], "required: --config, --checkpoint, --out; see `lass import taming --help`."),
        (
            ["predict", "-c", str(REPOSITORY / STAGES["prior"])],
            "cannot run lass.tasks.PriorTraining, which is for `lass fit`",
        ),
        (["predict", "-c", str(REPOSITORY / STAGES["vqvae"])], "cannot run lass.tasks.VQVAETraining"),
        (["fit", "-c", str(REPOSITORY / STAGES["separate"])], "it is one of `lass predict`"),
        (["predict", "-c", str(REPOSITORY / "experiments/digits/paper.yaml")], "--model names no class"),
    ],
)
def test_a_mistaken_command_is_one_sentence(arguments, words):
    assert words in sentence_of(arguments)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"model: \xe9\xff\n", "is not UTF-8 (byte 7)"),
        ("model: x".encode("utf-16"), "is not UTF-8 (byte 0)"),
        (b"model: [1, 2\nx: :\n", "is damaged, line 2, column 2"),
        (b"", "is empty"),
        (b"- a\n- b\n", "holds a list"),
        (b"just text\n", "holds a str"),
        (b"model: &a [*a]\n", "--model must be"),
        (b"a: &a [*a]\n", "contains itself"),
        (b"modle: {class_path: lass.tasks.Separation}\n", "did you mean --model.class_path?"),
        (
            b"model: {class_path: lass.tasks.Separation, init_args: {likelyhood: 3}}\n",
            "did you mean --model.likelihood?",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    assert words in sentence_of(["predict", "-c", str(path)])
    assert "is a folder" in sentence_of(["predict", f"--config={tmp_path}"])


def write_checkpoint(path, kind):
    """Write a file that is not a valid checkpoint."""
    if kind == "dangerous":
        torch.save({"state_dict": {}, "x": Dangerous(str(path.with_name("ran")))}, path)
    elif kind == "tensors":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "cut":
        torch.save({"weight": torch.zeros(3000)}, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "safetensors":
        save_file({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes({"text": b"hello world\n", "empty": b"", "zip": b"PK\x03\x04 not a checkpoint"}[kind])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("dangerous", "it holds objects that are no weights"),
        ("tensors", "is no checkpoint of a training (it has no state_dict)"),
        ("list", "is no checkpoint of a training"),
        ("cut", "it is cut or damaged"),
        ("safetensors", "it is cut or damaged"),
        ("text", "it is cut or damaged"),
        ("empty", "it is cut or damaged"),
        ("zip", "it is cut or damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path, kind, words):
    write_checkpoint(tmp_path / "x.ckpt", kind)
    said = sentence_of(command("prior", f"--ckpt_path={tmp_path / 'x.ckpt'}"))
    assert words in said
    assert len(said) < 400
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_names_no_classes(tmp_path, monkeypatch):
    """Class paths in a checkpoint's hyperparameters, which Lightning would instantiate, are ignored."""
    seen = []
    monkeypatch.setattr(
        stages.LassCLI, "instantiate_classes", lambda self: seen.append(self.config.fit.model.class_path)
    )
    monkeypatch.setattr(stages.LassCLI, "_run_subcommand", lambda self, command: None)
    content = dict.fromkeys(stages.LIGHTNING_KEYS, 0)
    torch.save({**content, "hyper_parameters": {"_class_path": "lass.tasks.FeatureTraining"}}, tmp_path / "x.ckpt")
    main(command("vqvae", f"--ckpt_path={tmp_path / 'x.ckpt'}"))
    assert seen == ["lass.tasks.VQVAETraining"]


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 1.0}, {"split_seed": -1}, {"num_workers": -1}, {"num_mixtures": 0}]
)
def test_data_modules_refuse_numbers_that_make_no_sense(options):
    with pytest.raises((LassError, TypeError) if 1.0 in options.values() else LassError, match=next(iter(options))):
        Digits(**options)


@pytest.mark.parametrize(("options", "words"), [({"priors": []}, "priors must name"), ({"seed": -1}, "seed must be")])
def test_separation_refuses_settings_before_it_reads_anything(options, words):
    with pytest.raises(LassError, match=words):
        Separation(**{"codec": "nowhere", "priors": "nowhere", "likelihood": "nowhere", **options})


# The disk


@pytest.mark.parametrize("write", ["text", "bytes", "torch"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path, write):
    target = tmp_path / "weights"

    def fill(temporary):
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        if write == "text":
            temporary.write_text("x")
        elif write == "torch":
            with open(temporary, "wb") as file:  # as checkpoints are written: torch 2.6 misses a full disk by itself
                torch.save({"x": torch.zeros(100)}, file)
        else:
            temporary.write_bytes(b"x" * 10000)

    with (
        pytest.raises(LassError, match=r"make room there, or choose another folder\.$") as error,
        atomic_write(target) as temporary,
    ):
        fill(temporary)
    assert str(target) in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_was_there_survives_a_full_disk(tmp_path, monkeypatch):
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, {})
    before = (tmp_path / "x.safetensors").read_bytes()

    def full(*args, **kwargs):
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("lass.artifacts.save_file", full)
    with pytest.raises(LassError, match=r"x\.safetensors .*\(No space left on device\)"):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {})
    assert (tmp_path / "x.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_other_exceptions_are_none_of_the_disk():
    assert disk_error(FileNotFoundError(errno.ENOENT, "gone", "x"), "y") is None
    assert disk_error(RuntimeError("shapes differ"), "y") is None
    assert disk_error(KeyError("x"), "y") is None
    handled = KeyError("x")
    handled.__context__ = OSError(errno.ENOSPC, "full")
    assert disk_error(handled, "y") is None
    assert "z cannot be" in str(disk_error(OSError(errno.EROFS, "read-only", "z"), "y"))


@pytest.mark.parametrize("stage", ["vqvae", "separate"])
def test_a_file_in_place_of_the_runs_folder_is_one_sentence(chain, stage):
    Path("runs/file").write_text("")
    data = [f"--data.mixtures={REPOSITORY / 'experiments/digits/test_mixtures.csv'}"] if stage == "separate" else []
    said = sentence_of(command(stage, *SMALL[stage], *data, "--trainer.default_root_dir=runs/file/x"))
    assert "runs/file" in said
    assert "a file is where a folder should be" in said


# Runs and their folders


@contextmanager
def held_by_another_process(path):
    """Context in which another process holds a lock on a file, until it is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); "
    other = subprocess.Popen([sys.executable, "-S", "-c", code + "time.sleep(600)", path], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        yield
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="locks of another kind")
def test_a_second_run_in_a_folder_is_refused_while_the_first_one_lives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    with held_by_another_process(folder / LOCK_FILE):
        assert "Another run is going on in run" in sentence_of(command("vqvae", "--trainer.default_root_dir=run"))
        assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    with locked(folder), pytest.raises(LassError, match="Another run"), locked(folder):
        pass  # the first process was killed, so the folder can be locked
    with locked(folder):
        pass


def test_a_file_system_without_locks_stops_no_run(tmp_path, monkeypatch):
    def none(self, *args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "x").touch()


def test_a_dry_run_leaves_nothing_in_the_runs_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(command("vqvae", "--trainer.fast_dev_run=true", *SMALL["vqvae"]))
    left = {path.name for path in tmp_path.rglob("*")}
    assert not left & {"config.yaml", "wandb", LOCK_FILE, "codec"}


# Ctrl-C


@pytest.fixture
def sigint():
    """Restore the handler of SIGINT, which Lightning replaces."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(*args, **kwargs):
    """Replacement for a function, as if Ctrl-C were pressed in it."""
    raise KeyboardInterrupt


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path, monkeypatch, sigint, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(VQVAETraining, "training_step", interrupted)
    with pytest.raises(SystemExit) as error:
        main(command("vqvae", "--trainer.logger=false", *SMALL["vqvae"]))
    assert error.value.code == 130
    said = capfd.readouterr().err
    assert "lass: stopped; there is no checkpoint yet, so the same command starts afresh." in said.splitlines()
    assert "Traceback" not in said
    assert "Detected KeyboardInterrupt" not in said
    with locked(tmp_path / "runs/digits/vqvae"):  # released
        pass


def test_ctrl_c_in_lass_separate(monkeypatch, capsys):
    monkeypatch.setattr(separate, "main", interrupted)
    with pytest.raises(SystemExit) as error:
        main(["separate", "a.png"])
    assert error.value.code == 130
    assert capsys.readouterr().err.startswith("lass: stopped; estimates that were finished are kept")
    monkeypatch.setenv("LASS_GO_ON", "make demo goes on from here")
    with pytest.raises(SystemExit):
        main(["separate", "a.png"])
    assert capsys.readouterr().err == "lass: stopped; make demo goes on from here.\n"


def test_a_predict_that_was_stopped_says_that_it_goes_on(chain, repository, monkeypatch, sigint, capfd):
    monkeypatch.setattr(Separation, "_separate", interrupted)
    with pytest.raises(SystemExit) as error:
        lass(repository, "separate", "--trainer.default_root_dir=runs/stopped", "--trainer.logger=false")
    assert error.value.code == 130
    assert "lass: stopped; the same command resumes at the first missing mixture." in capfd.readouterr().err


# Precision


def test_true_precisions_separate_as_float32_does(chain, repository):
    """Results agree with those of float32, because all computation stays in float32."""
    few = [
        "--data.num_mixtures=1",
        "--model.sampler.num_candidates=8",
        "--model.refinement=lass.separation.NoRefinement",
    ]
    rows = {}
    for precision in ("32-true", "64-true", "bf16-true", "16-true"):
        folder = f"runs/precision/{precision}"
        options = [f"--trainer.default_root_dir={folder}", f"--trainer.precision={precision}", "--trainer.logger=false"]
        lass(repository, "separate", *few, *options)
        results = ResultsFolder(folder)
        rows[precision] = results.read(0)[1]["psnr_db"]
        assert results.read(0)[0]["estimates"].dtype == torch.float32
        separator = Separator.from_pretrained(f"{folder}/separator")
        assert {x.dtype for x in separator.codec.parameters()} == {torch.float32}
        # Identical float32 operations; the tolerance of 0.001 dB allows for another number of threads.
        assert rows[precision] == pytest.approx(rows["32-true"], abs=1e-3)


# Untrusted separator folders


def hostile(value):
    """Iterate over copies of a JSON document, each with a hostile name in one place that names a class or function."""
    if isinstance(value, dict):
        for key, inner in value.items():
            for changed in hostile(inner):
                yield {**value, key: changed}
        if "class" in value:
            for name in HOSTILE:
                yield {**value, "class": name}
                yield {**value, "class_path": name}
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            for changed in hostile(inner):
                yield [*value[:i], changed, *value[i + 1 :]]


HOSTILE = (
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "hostile_module.Class",
    "__import__",
    "ImageVQVAE",
    3,
    ["x"],
)


def test_a_separators_folder_imports_and_runs_nothing(chain, tmp_path, monkeypatch):
    """Names of functions, of modules that are not imported yet, and of classes of another kind are rejected."""
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Class: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for function in ("system", "popen"):
        monkeypatch.setattr(os, function, lambda *args: (tmp_path / "ran").touch())
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: (tmp_path / "ran").touch())
    folder = tmp_path / "separator"
    shutil.copytree("runs/digits/separate/separator", folder)
    Separator.from_pretrained(folder)
    modules = set(sys.modules)
    files = sorted(folder.rglob("*.json"))
    assert files
    refused = 0
    for path in files:
        original = path.read_text()
        for changed in hostile(json.loads(original)):
            path.write_text(json.dumps(changed))
            try:
                Separator.from_pretrained(folder)
            except LassError:
                refused += 1
        path.write_text(original)
    assert refused > len(files)
    assert not (tmp_path / "ran").exists()
    assert not {name for name in set(sys.modules) - modules if "hostile" in name}


def test_a_pickle_in_place_of_weights_is_not_read(chain, tmp_path):
    folder = tmp_path / "separator"
    shutil.copytree("runs/digits/separate/separator", folder)
    for path in folder.rglob("*.safetensors"):
        original = path.read_bytes()
        torch.save({"x": Dangerous(str(tmp_path / "ran"))}, path)
        with pytest.raises(LassError):
            Separator.from_pretrained(folder)
        path.write_bytes(original)
    assert not (tmp_path / "ran").exists()
