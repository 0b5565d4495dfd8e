"""The result of a separation."""

# S sources, N candidates

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SeparationResult:
    """What came out. For a batch of mixtures every field has one more axis in front."""

    estimates: Tensor  # (sources, channels, *space)
    codes: Tensor  # (sources, *grid) of the chosen candidate, before refinement
    scores: Tensor  # (candidates,) log posterior of all candidates, best first
    residual: Tensor  # (channels, *space), the mixture minus the mixed estimates
    weights: Tensor  # (candidates,) what each candidate counts for; they sum to 1
    entropy: Tensor  # (*grid) of the candidates' pairs at each position, in nats
    num_unseen_codes: Tensor  # scalar: positions whose mixture code was never counted, so that others' pairs stood in
    log_evidence: Tensor | None = None  # scalar, from samplers that estimate it
