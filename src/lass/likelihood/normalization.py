"""From counts to the likelihood: F normalised over the mixture codes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.devices.numerics import widest_float

CHUNK = 2**18  # stored triples that are put in order at once: temporaries stay in a CPU's cache


def normalize(
    keys: Int[Tensor, " stored"], counts: Int[Tensor, " stored"], num_codes: int, symmetric: bool, smoothing: float
) -> dict[str, Tensor]:
    """The table of a SparseLikelihood, p = (F + α) / (Σ_m F + α K); see `SparseLikelihood.state_dict`.

    Written chunk by chunk into its final place, so that beside it there are only a few numbers per stored triple.

    Args:
        keys: (mixture · K + first) · K + second of the stored triples, ascending; first ≤ second when symmetric.
        counts: of the stored triples.
        num_codes: K.
        symmetric: whether every triple stands for both orders of its pair.
        smoothing: the pseudo-count α that every mixture code is given.

    Source: LASS (arXiv:2301.08562), "Discrete Likelihoods for Source Separation"; Lidstone (additive) smoothing.
    """
    log_likelihood, seen_pairs, log_unseen = _log_likelihood(keys, counts, num_codes, symmetric, smoothing)
    boundaries = torch.arange(num_codes + 1, device=keys.device) * num_codes**2
    stored_starts = torch.searchsorted(keys, boundaries)
    if not symmetric:
        table = _table(len(keys), keys)
        _fill(table, 0, keys, log_likelihood, num_codes)
        starts = stored_starts
    else:
        pair = keys % num_codes**2
        single = (pair // num_codes == pair % num_codes).cumsum(0)  # pairs of equal codes, which have one order only
        single = torch.nn.functional.pad(single, (1, 0))[stored_starts]
        starts = 2 * stored_starts - single
        table = _table(int(starts[-1]), keys)
        stored, begins = stored_starts.tolist(), starts.tolist()
        mixture = 0
        while mixture < num_codes:
            after = mixture + 1  # one mixture code at least, and more while they fit into the chunk
            while after < num_codes and stored[after + 1] - stored[mixture] <= CHUNK:
                after += 1
            part = slice(stored[mixture], stored[after])
            both, values = _both_orders(keys[part], log_likelihood[part], num_codes)
            _fill(table, begins[mixture], both, values, num_codes)
            mixture = after
    table["starts"] = starts
    if smoothing:
        table |= _unseen(seen_pairs, log_unseen, num_codes, symmetric)
    return table


def _log_likelihood(
    keys: Tensor, counts: Tensor, num_codes: int, symmetric: bool, smoothing: float
) -> tuple[Float[Tensor, " stored"], Int[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Of the stored triples; the distinct pairs, and their log likelihood of mixture codes they never gave.

    On devices without float64 the log likelihoods are off by up to 2⁻²¹ more than rounding them to float32 does.
    """
    widest = widest_float(keys.device)
    seen_pairs, pair = (keys % num_codes**2).unique(return_inverse=True)
    totals = torch.zeros_like(seen_pairs).index_add_(0, pair, counts).to(widest)
    # In F a pair of equal codes was counted in both orders, at the same place.
    equal = seen_pairs // num_codes == seen_pairs % num_codes
    times = (1 + equal.to(widest)) if symmetric else torch.ones_like(totals)
    totals = times * totals + smoothing * num_codes
    log_likelihood = torch.empty(len(keys), device=keys.device)
    for start in range(0, len(keys), CHUNK):
        part = slice(start, start + CHUNK)
        log_likelihood[part] = ((times[pair[part]] * counts[part] + smoothing) / totals[pair[part]]).log()
    return log_likelihood, seen_pairs, (smoothing / totals).log().float()


def _both_orders(keys: Tensor, values: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    pair, second = keys // num_codes, keys % num_codes
    first, mixture = pair % num_codes, pair // num_codes
    swapped = first != second
    mirrored = ((mixture * num_codes + second) * num_codes + first)[swapped]
    both, order = torch.cat([keys, mirrored]).sort()
    return both, torch.cat([values, values[swapped]])[order]


def _table(length: int, keys: Tensor) -> dict[str, Tensor]:
    codes = {name: keys.new_empty(length) for name in ("first", "second")}
    return {**codes, "log_likelihood": torch.empty(length, device=keys.device)}


def _fill(table: dict[str, Tensor], start: int, keys: Tensor, values: Tensor, num_codes: int) -> None:
    part = slice(start, start + len(keys))
    table["first"][part], table["second"][part] = keys // num_codes % num_codes, keys % num_codes
    table["log_likelihood"][part] = values


def _unseen(pairs: Tensor, log_unseen: Tensor, num_codes: int, symmetric: bool) -> dict[str, Tensor]:
    if symmetric:
        pairs, log_unseen = _both_orders(pairs, log_unseen, num_codes)
    return {"seen_pairs": pairs, "log_unseen": log_unseen}
