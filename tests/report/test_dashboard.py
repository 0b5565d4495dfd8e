"""Dashboard of Weights & Biases: it shows names that the stages log, and reaches the server as defined."""

from __future__ import annotations

import json

import pytest
import torch
import trainings
import two_bands
import wandb
import wandb_workspaces.workspaces as workspaces
from chain import SMALL
from offline_runs import read_offline_runs
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader
from toy_worlds import fitted_additive
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb_runs import finish_run

from lass import LassError
from lass.codecs import AudioVQVAE, load_codec
from lass.data.sources import Sources
from lass.methods import Average
from lass.metrics import ImageFeatures
from lass.priors import TransformerPrior
from lass.report import dashboard as module
from lass.report.wandb_logger import WandbLogger
from lass.samplers import Greedy
from lass.separation import NoRefinement
from lass.tasks import Evaluation, Separation, VQVAETraining

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def other_runs(tmp_path_factory):
    """One run with everything that the four stages on digits do not log: audio, class dropout, a Fréchet distance."""
    folder = tmp_path_factory.mktemp("other")
    logger = WandbLogger("others", "all", save_dir=str(folder))

    def trainer(name, **options):
        return Trainer(default_root_dir=folder / name, logger=logger, **QUIET, **options)

    try:
        trainings.fit("prior", folder / "prior", logger=logger, max_epochs=1)
        audio = Sources(torch.rand(4, 1, 4096) - 0.5, torch.zeros(4, dtype=torch.long))
        loaders = {name: DataLoader([audio], batch_size=None) for name in ("train_dataloaders", "val_dataloaders")}
        codec = AudioVQVAE(8000, 6, width=8, latent_dim=4)
        trainer("audio-codec", max_steps=1).fit(VQVAETraining(codec, linearity=0.05), **loaders)
        trainer("audio").predict(Evaluation(Average()), two_bands.TwoBands())
        images = load_codec(trainings.codec_folder(folder))
        prior = TransformerPrior(trainings.NUM_CODES, 4, 8, num_layers=1, num_heads=2).save_pretrained(folder / "one")
        fitted_additive(images, torch.rand(30, 2, 1, 8, 8)).save(folder / "likelihood.safetensors")
        features = ImageFeatures(num_features=2, width=8).save_pretrained(folder / "features")
        parts = {"codec": trainings.codec_folder(folder), "priors": str(prior), "features": str(features)}
        parts |= {"likelihood": str(folder / "likelihood.safetensors"), "refinement": NoRefinement()}
        mixtures = trainings.Noise(tuples=True, num_mixtures=4)
        trainer("images").predict(Separation(sampler=Greedy(), **parts), mixtures)
    finally:
        finish_run()
    return read_offline_runs(folder)


@pytest.fixture(scope="module")
def runs(chain_folder, other_runs):
    stages = [read_offline_runs(chain_folder / "runs" / "digits" / stage)[0] for stage in SMALL]
    return [*stages, *other_runs]


def panels_of(workspace):
    """Panels of a workspace in the form that is sent, by kind."""
    found: dict = {}
    for section in json.loads(workspace._to_model().spec.model_dump_json(by_alias=True))["section"]["panelBankConfig"][
        "sections"
    ]:
        for panel in section["panels"]:
            found.setdefault(panel["viewType"], []).append(panel["config"])
    return found


def test_every_number_and_picture_of_the_dashboard_is_logged(runs):
    history = {name for run in runs for name in run.history}
    summary = {name for run in runs for name, value in run.summary.items() if isinstance(value, float | int)}
    # FID needs Inception and 2,049 images; its names are made as those of the other Fréchet distance.
    summary |= {name.replace("/frechet_small/", "/fid/") for name in summary}
    panels = panels_of(module.dashboard("me"))
    lines = {name for panel in panels["Run History Line Plot"] for name in (*panel["metrics"], panel["xAxis"])}
    bars = {name for panel in panels["Bar Chart"] for name in panel["metrics"]}
    media = {key for panel in panels["Media Browser"] for key in panel["mediaKeys"]}
    assert not lines - history
    assert not {*bars, *module.COLUMNS} - summary
    assert not {f"{key}/filenames" for key in media} - history
    tables = {name for run in runs for name in run.artifacts.get("run_table", {})}
    (table,) = panels["Weave"]
    assert '"separation/mixtures"' in json.dumps(table)
    assert "separation/mixtures.table.json" in tables


def test_every_score_of_the_stages_is_on_the_dashboard(runs):
    """All scores with a direction are shown, except reconstructions of test sources and means over validation kinds."""
    directed = {name for run in runs for name in run.directions}
    sent = json.dumps(panels_of(module.dashboard("me")))
    missing = {name for name in directed if name not in sent}
    assert not {name for name in missing if not name.startswith(("separation/codec_", "val/"))} - {
        "separation/average_si_sdri_db/mean"  # 0 by definition
    }


@pytest.fixture
def account(monkeypatch, tmp_path):
    """Account of a user who is logged in, with a server that can be reached."""
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(module, "is_reachable", lambda address: True)
    monkeypatch.setattr(wandb, "Api", lambda: None)
    monkeypatch.setattr(workspaces.interface, "get_app_url", lambda api: "https://wandb.example")


def test_the_dashboard_is_created_and_its_address_is_printed(account, monkeypatch, capsys):
    sent = {}

    def answer(api, query, variables):
        sent.update(variables)
        return {"upsertView": {"view": {"name": variables["name"], "id": "1"}, "inserted": True}}

    monkeypatch.setattr(workspaces.internal, "execute_graphql", answer)
    module.main(["--entity", "me", "--project", "mine"])
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("me", "mine", module.NAME)
    sections = json.loads(sent["spec"])["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["1 Codec", "2 Prior", "3 Likelihood", "4 Separation"]
    assert capsys.readouterr().out.startswith("https://wandb.example/me/mine?nw=")


def test_without_an_account_or_a_connection_there_is_one_sentence(account, monkeypatch, tmp_path):
    def refuse(*arguments):
        raise WandbApiFailedError("permission denied\nand much more")

    monkeypatch.setattr(workspaces.internal, "execute_graphql", refuse)
    with pytest.raises(LassError, match=r"did not take the dashboard \(permission denied\): check that the project me"):
        module.create("me", "lass")
    monkeypatch.setattr(module, "is_reachable", lambda address: False)
    with pytest.raises(LassError, match="needs a connection to"):
        module.create("me", "lass")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(SystemExit) as error:
        module.main(["--entity", "me"])
    said = "lass: The dashboard needs an account of Weights & Biases: log in with `wandb login`."
    assert str(error.value) == said
