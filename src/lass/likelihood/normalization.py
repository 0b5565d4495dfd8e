"""Normalisation of the counts F over the mixture codes, which gives the likelihood P of the paper."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.devices.numerics import widest_float

CHUNK = 2**18  # number of stored triples sorted at once, so that temporaries stay in a CPU's cache


def normalize(
    keys: Int[Tensor, " stored"], counts: Int[Tensor, " stored"], num_codes: int, symmetric: bool, smoothing: float
) -> dict[str, Tensor]:
    """Return the table of a `SparseLikelihood`, p(m | a, b) = (F[a, b, m] + α) / (Σₘ F[a, b, m] + α K).

    The table is written in place, chunk by chunk; beside it only a few numbers per stored triple are allocated. See
    `SparseLikelihood.state_dict` for its entries.

    Args:
        keys: (mixture · K + first) · K + second of the stored triples, ascending; first ≤ second if symmetric.
        counts: Counts of the stored triples.
        num_codes: K.
        symmetric: Whether every stored triple represents both orders of its pair.
        smoothing: Pseudo-count α of every mixture code.

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
        single = (pair // num_codes == pair % num_codes).cumsum(0)  # equal codes: one order only
        single = torch.nn.functional.pad(single, (1, 0))[stored_starts]
        starts = 2 * stored_starts - single
        table = _table(int(starts[-1]), keys)
        stored, begins = stored_starts.tolist(), starts.tolist()
        mixture = 0
        while mixture < num_codes:
            after = mixture + 1  # at least one mixture code, and more while they fit into the chunk
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
    """Return the log likelihood of the stored triples, the distinct pairs, and each pair's log likelihood of uncounted
    codes.

    On devices without float64 the log likelihoods have an additional error of up to 2⁻²¹ beyond rounding to float32.
    """
    widest = widest_float(keys.device)
    seen_pairs, pair = (keys % num_codes**2).unique(return_inverse=True)
    totals = torch.zeros_like(seen_pairs).index_add_(0, pair, counts).to(widest)
    # F counts a pair of equal codes twice if symmetric: both orders are the same entry.
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
