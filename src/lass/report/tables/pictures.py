"""Figures of separations: the same mixtures, separated by several methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from lass.data.mixing import mix
from lass.data.module import SourceDataModule, weights_of
from lass.report.display import ImageDisplay, display_of
from lass.report.figures import image_grid
from lass.report.results import ResultsFolder
from lass.report.tables.configured import from_config
from lass.report.tables.folders import Key
from lass.report.tables.plan import Planned

SEED = 0  # of the choice of mixtures


def separations(planned: Sequence[Planned], num_examples: int, title: str) -> Figure | None:
    """Picture of random mixtures with their sources, and with the estimates of each method side by side.

    Args:
        planned: Methods; those without results are left out.
        num_examples: Number of mixtures, at most; only mixtures that all methods separated are taken.
        title: Title, to which the number of mixtures is added.

    Returns:
        The figure; None if no mixture was separated by all of the methods.

    Raises:
        LassError: if a results folder has a config of another version, or a damaged file.
    """
    present = [item for item in planned if item.run is not None and item.results.scores]
    common = sorted(set[Key].intersection(*(set(item.results.scores) for item in present))) if present else []
    if not common:
        return None
    chosen = torch.randperm(len(common), generator=torch.Generator().manual_seed(SEED))[:num_examples].tolist()
    indices = [common[i][0] for i in chosen]
    folders = [ResultsFolder(item.run.folder) for item in present if item.run is not None]
    data = from_config(folders[0].root, "data", SourceDataModule)
    data.setup("predict")
    sources = data.predict_dataloader().dataset.__getitems__(indices).signals  # (mixtures, S, channels, *space)
    signals = {"mixture": mix(sources, weights_of(data))}
    signals |= {f"source {number}": source for number, source in enumerate(sources.unbind(1), 1)}
    for item, folder in zip(present, folders, strict=True):
        estimates = torch.stack([folder.read(index)[0]["estimates"] for index in indices])
        signals |= {f"{item.row.name}, {number}": one for number, one in enumerate(estimates.unbind(1), 1)}
    display = display_of(data) or ImageDisplay()
    pictures = {name: display.pictures(batch) for name, batch in signals.items()}
    whole = f"{title}: {len(indices)} random mixtures"
    return image_grid(pictures, [f"#{index}" for index in indices], whole)
