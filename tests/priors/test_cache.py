"""Key/value cache under reordering of sequences, compared with the full pass of the transformer."""

from __future__ import annotations

import pytest
import torch

from lass.priors import TransformerPrior, cache
from lass.priors.cache import KeyValueCache

K, T = 5, 24


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch):
    """Shrink the cache's sizes, so that 24 positions cover growth of the room, sharing of prefixes and new rows."""
    monkeypatch.setattr(cache, "FIRST_ROOM", 4)
    monkeypatch.setattr(cache, "SHARE_FROM", 3)


@pytest.fixture
def prior():
    torch.manual_seed(0)
    model = TransformerPrior(num_codes=K, num_positions=T, dim=16, num_layers=2, num_heads=2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def any_parents(num: int, generator: torch.Generator) -> torch.Tensor:
    """Draw arbitrary parents: any order, more or fewer rows."""
    return torch.randint(num, (int(torch.randint(1, 9, (), generator=generator)),), generator=generator)


def few_parents(num: int, generator: torch.Generator) -> torch.Tensor:
    """Draw parents as in beam search: eight rows with two or three distinct parents."""
    return torch.randint(num, (3,), generator=generator)[torch.randint(3, (8,), generator=generator)].sort().values


def no_parents(num: int, generator: torch.Generator) -> torch.Tensor:
    """Return identity parents, as in ancestral sampling."""
    return torch.arange(num)


@torch.no_grad()
@pytest.mark.parametrize(("choose", "seed"), [(any_parents, 0), (any_parents, 1), (few_parents, 0), (no_parents, 0)])
def test_every_step_equals_the_full_pass(prior, choose, seed, device):
    generator, prior = torch.Generator().manual_seed(seed), prior.to(device)
    state, codes = prior.start(6), torch.zeros(6, 0, dtype=torch.long, device=device)
    for position in range(T):
        log_prior = prior.step(state, codes[:, -1] if position else None)
        anything = codes.new_zeros(len(codes), 1)
        expected = prior(torch.cat([codes, anything], 1))[:, -1].log_softmax(-1)
        # Tolerance for two layers with sums of at most 64 float32 terms in another order.
        torch.testing.assert_close(log_prior.cpu(), expected.cpu(), atol=1e-4, rtol=1e-4)
        parents = choose(len(codes), generator).to(device)
        state = prior.select(state, parents)
        chosen = torch.randint(K, (len(parents), 1), generator=generator).to(device)
        codes = torch.cat([codes[parents], chosen], 1)
    if choose is few_parents:
        assert state.cache.num_shared > T // 2  # eight rows with three parents coalesce soon


def filled_cache(num_rows: int, num_positions: int) -> KeyValueCache:
    keys_and_values = torch.zeros(num_rows, 1, 4)
    filled = KeyValueCache(1, 1, 4, 100, num_rows, keys_and_values)
    for _ in range(num_positions):
        filled.attend(0, keys_and_values, keys_and_values, keys_and_values)
        filled.advance()
    return filled


def test_only_what_must_move_is_moved(monkeypatch):
    monkeypatch.setattr(cache, "SHARE_FROM", 1000)
    one = filled_cache(10, 30)
    one.select(torch.arange(10))
    assert one.num_moved == 0  # identity parents
    one.select(torch.tensor([0, 0, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert one.num_moved == 30  # one row with its whole past
    rows = torch.zeros(10, 1, 4)
    for _ in range(5):
        one.attend(0, rows, rows, rows)
        one.advance()
    one.select(torch.tensor([1, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert one.num_moved == 30 + 5  # rows 0 and 1 differ in the last five positions only
    one.select(torch.arange(6))
    assert one.num_moved == 35  # dropping rows copies nothing


def test_what_all_have_in_common_is_stored_once():
    one = filled_cache(1, 30)
    one.select(torch.zeros(50, dtype=torch.long))
    rows = torch.zeros(50, 1, 4)
    assert one.num_shared == 30
    for _ in range(20):
        one.attend(0, rows, rows, rows)
        one.advance()
    assert one._own.shape[2] * one._own.shape[4] < 50 * 40  # about 20 of the 50 positions, for 50 rows
