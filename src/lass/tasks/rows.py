"""Rows of the table of results: scores of one mixture, and the numbers that only some methods give."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from lass.report.results import Row
from lass.separation import SeparationResult


def row_of(index: int, scores: Mapping[str, Tensor], primary: Sequence[str], source_names: Sequence[str]) -> Row:
    """Return the scores of a mixture as a row: the mean of each score over the sources, and some for each source.

    Args:
        index: Index of the mixture.
        scores: Scores of the sources, (S,) each, by name.
        primary: Names of the scores that the row also has for each source.
        source_names: Names of the sources.
    """
    row: Row = {"mixture": index, **{name: values.mean().item() for name, values in scores.items()}}
    for score in primary:
        named = zip(source_names, scores[score].tolist(), strict=True)
        row |= {of_source(score, name): value for name, value in named}
    return row


def extras_of(result: SeparationResult, i: int) -> Row:
    """Return the numbers of mixture `i` of a batch that only some methods give, as part of a row."""
    row: Row = {}
    if result.scores is not None:
        row["best_log_posterior"] = result.scores[i, 0].item()
    if result.num_unseen_codes is not None:
        row["num_unseen_codes"] = int(result.num_unseen_codes[i])
    if result.log_evidence is not None:
        row["log_evidence"] = result.log_evidence[i].item()
    return row


def of_source(score: str, name: str) -> str:
    """Return the name of a score of one source: `psnr_1_db`, `sdr_drums_db`."""
    return f"{score.removesuffix('_db')}_{name}_db"


def checksum(signals: Tensor) -> int:
    """CRC-32 of the sources of a mixture, which identifies the mixture."""
    return zlib.crc32(signals.detach().cpu().contiguous().numpy().tobytes())
