"""The result of a separation."""

# S sources, N candidates

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SeparationResult:
    """Result of a separation of one mixture; in the result of `separate_batch` every field has a leading mixture
    dimension.

    Only `estimates` is required; `Separator` gives all of the others, except that it may have no `log_evidence`.
    """

    estimates: Tensor  #: (sources, channels, *space)
    codes: Tensor | None = None  #: (sources, *grid) of the chosen candidate, before refinement
    scores: Tensor | None = None  #: (candidates,) unnormalised log posterior of all candidates, best first
    residual: Tensor | None = None  #: (channels, *space): mixture − mixed estimates
    weights: Tensor | None = None  #: (candidates,) normalised weights of the candidates
    entropy: Tensor | None = None  #: (*grid): entropy of the weighted candidates' tuples at each position, in nats
    num_unseen_codes: Tensor | None = None  #: scalar: number of positions whose mixture code was never counted
    log_evidence: Tensor | None = None  #: scalar, see `Candidates`
