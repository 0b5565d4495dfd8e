"""The result of a separation."""

# S sources, N candidates

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SeparationResult:
    """Result of `Separator.separate`. In the result of `separate_batch` every field has a leading mixture dimension."""

    estimates: Tensor  # (sources, channels, *space)
    codes: Tensor  # (sources, *grid) of the chosen candidate, before refinement
    scores: Tensor  # (candidates,) unnormalised log posterior of all candidates, best first
    residual: Tensor  # (channels, *space): mixture − mixed estimates
    weights: Tensor  # (candidates,) normalised weights of the candidates
    entropy: Tensor  # (*grid): entropy of the weighted candidates' tuples at each position, in nats
    num_unseen_codes: Tensor  # scalar: number of positions whose mixture code was never counted
    log_evidence: Tensor | None = None  # scalar, see `Candidates`
