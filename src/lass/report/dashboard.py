"""Dashboard of the experiments in Weights & Biases: `python -m lass.report.dashboard --entity ENTITY`.

The dashboard is a workspace with one section per stage. It shows what the stages log, see docs/wandb.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as reports
import wandb_workspaces.workspaces as workspaces

from lass.errors import LassError
from lass.report.wandb_logger import is_logged_in, is_reachable, server

NAME = "LASS experiments"
STEP = "trainer/global_step"

#: Scores that are columns of the table of runs and bars: name in the summary, title. W&B stores the best value of a
#: score with a direction (`WandbCallback`) as `<name>.min` or `<name>.max`.
IMAGE_SCORES = {
    "PSNR in dB": ["separation/psnr_db/mean.max", "separation/average_psnr_db/mean.max"],
    "FID": ["separation/fid/estimates.min", "separation/fid/mixture.min", "separation/fid/reconstruction.min"],
    "Fréchet distance on features of a small network": [
        "separation/frechet_small/estimates.min",
        "separation/frechet_small/mixture.min",
        "separation/frechet_small/reconstruction.min",
    ],
}
AUDIO_SCORES = {
    "SDR in dB": ["separation/sdr_db/mean.max", "separation/average_sdr_db/mean.max"],
    "SI-SDR in dB": ["separation/si_sdr_db/mean.max", "separation/average_si_sdr_db/mean.max"],
    "SI-SDR improvement in dB": ["separation/si_sdri_db/mean.max"],
}
COLUMNS = [scores[0] for scores in (IMAGE_SCORES | AUDIO_SCORES).values()]


def dashboard(entity: str, project: str = "lass") -> workspaces.Workspace:
    """Return the definition of the dashboard; nothing is sent.

    Args:
        entity: User or team that the project belongs to.
        project: Project with the runs.
    """
    codec = [
        _lines("Training loss", "train/loss", "train/commitment", "train/nonlinearity", log_y=True),
        _lines("Images: reconstruction, PSNR in dB", "val/psnr_sources_db", "val/psnr_mixtures_db"),
        _lines("Audio: reconstruction, SI-SDR in dB", "val/si_sdr_sources_db", "val/si_sdr_mixtures_db"),
        _lines("Codebook: perplexity", "codebook/perplexity"),
        _lines("Codebook: share of codes in use", "codebook/used"),
        _media("Reconstructions", "val/reconstructions"),
    ]
    prior = [
        _lines("Nats per code", "train/nats_per_code", "val/nats_per_code", "val/nats_per_code_any_class"),
        _bars("Nats per code, validation", "val/nats_per_code.min"),
        _media("Samples", "val/samples"),
    ]
    likelihood = [
        _lines("Density in %", "likelihood/density_percent"),
        _lines("Coverage of held-out triples and mixtures", "val/coverage", "val/mixtures_fully_covered"),
        _lines("Log likelihood per code in nats", "val/log_likelihood_per_code"),
        _lines("Counted", "likelihood/num_pairs_seen", "likelihood/num_triples", "likelihood/num_nonzero", log_y=True),
    ]
    separation = [
        *(_bars(title, *names) for title, names in (IMAGE_SCORES | AUDIO_SCORES).items()),
        _bars("Entropy of the candidates in nats", "separation/entropy"),
        _media("Examples, from the best to the worst", "separation/examples", "separation/entropy_map"),
        reports.WeavePanelSummaryTable(table_name="separation/mixtures"),
    ]
    sections = {"1 Codec": codec, "2 Prior": prior, "3 Likelihood": likelihood, "4 Separation": separation}
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[_section(name, each) for name, each in sections.items()],
        settings=workspaces.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=workspaces.RunsetSettings(pinned_columns=[f"summary:{name}" for name in COLUMNS]),
    )


def create(entity: str, project: str) -> str:
    """Create the dashboard online and return its address.

    Raises:
        LassError: without a login, without a connection, or if the server refuses the dashboard.
    """
    if not is_logged_in():
        raise LassError("The dashboard needs an account of Weights & Biases: log in with `wandb login`.")
    if not is_reachable(server()):
        raise LassError(f"The dashboard needs a connection to {server()}, which cannot be reached: try again later.")
    workspace = dashboard(entity, project)
    try:
        workspace.save()
    except Exception as error:  # the errors of wandb's service have no common base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LassError(
            f"Weights & Biases did not take the dashboard ({reason}): check that the project {entity}/{project} exists "
            "and that you can write to it."
        ) from error
    return str(workspace.url)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; bad input prints one sentence and exits with status 1."""
    options = parser().parse_args(args)
    try:
        print(create(options.entity, options.project))
    except LassError as error:
        raise SystemExit(f"lass: {error}") from error


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    options = argparse.ArgumentParser("python -m lass.report.dashboard", description="Create the dashboard in W&B.")
    options.add_argument("--entity", required=True, help="user or team that the project belongs to")
    options.add_argument("--project", default="lass", help="project with the runs")
    return options


def _section(name: str, panels: list[Any]) -> workspaces.Section:
    layout = workspaces.SectionLayoutSettings(columns=3, rows=-(-len(panels) // 3))  # all panels on one page
    return workspaces.Section(name=name, panels=panels, is_open=True, layout_settings=layout)


def _lines(title: str, *names: str, log_y: bool = False) -> Any:
    return reports.LinePlot(title=title, x=STEP, y=list(names), log_y=log_y or None)


def _bars(title: str, *names: str) -> Any:
    return reports.BarPlot(title=title, metrics=list(names))


def _media(title: str, *keys: str) -> Any:
    return reports.MediaBrowser(title=title, media_keys=list(keys))


if __name__ == "__main__":
    main()
