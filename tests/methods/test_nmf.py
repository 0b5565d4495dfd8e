"""NMF: planted non-negative parts that must be recovered, the division of a shared dictionary, files and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lass import LassError
from lass.methods import NMF, NMFDictionaries
from lass.methods.nmf import divided, non_negative_solution

SHAPE = (1, 4, 6)


def parts_of_class(number):
    """Four disjoint pieces, three pixels each, of one half of the image."""
    pixels = torch.zeros(4, 24)
    for piece in range(4):
        start = 12 * number + 3 * piece
        pixels[piece, start : start + 3] = torch.tensor([1.0, 0.5, 0.25])
    return pixels


def planted(num_signals, seed=0):
    """Signals of two classes, sums of the pieces of their class with random activations; (signals, classes)."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(num_signals) % 2
    activations = torch.rand(num_signals, 1, 4, generator=generator) * 0.8 + 0.1
    pieces = torch.stack([parts_of_class(0), parts_of_class(1)])[classes]
    return (activations @ pieces).view(num_signals, *SHAPE), classes


@pytest.fixture(scope="module")
def by_class():
    signals, classes = planted(300)
    return NMFDictionaries.fit(signals, classes, num_components=4, max_iterations=1000)


@pytest.fixture(scope="module")
def for_all():
    signals, _ = planted(300)
    return NMFDictionaries.fit(signals, num_components=8, max_iterations=1000)


def test_dictionaries_are_the_planted_parts(by_class):
    for number in (0, 1):
        planted_parts = torch.nn.functional.normalize(parts_of_class(number), dim=1)
        similarity = planted_parts @ by_class.components[number].T
        assert (similarity.max(1).values > 0.95).all()
    torch.testing.assert_close(by_class.components.norm(dim=2), torch.ones(2, 4))
    torch.testing.assert_close(by_class.affinity.diagonal(dim1=1, dim2=2), torch.ones(2, 4))


@pytest.mark.parametrize("weights", [None, [0.2, 0.6]])
def test_sources_of_known_classes_are_recovered_at_their_scale(by_class, weights):
    signals, classes = planted(20, seed=1)
    sources = signals.unflatten(0, (10, 2))
    conditions = classes.view(10, 2)
    factors = torch.tensor(weights or [0.5, 0.5])[:, None, None, None]
    mixtures = (factors * sources).sum(1)
    method = NMF(by_class, mixing_weights=weights, largest=None)
    estimates = method.separate_batch(mixtures, conditions).estimates
    torch.testing.assert_close(estimates, sources, atol=0.02, rtol=0)
    swapped = method.separate_batch(mixtures, conditions.flip(1)).estimates
    if weights is None:
        torch.testing.assert_close(swapped, estimates.flip(1), atol=1e-4, rtol=0)
    torch.testing.assert_close((factors * estimates).sum(1), mixtures, atol=1e-4, rtol=0)


def test_one_dictionary_for_all_is_divided_by_what_occurs_together(for_all):
    """The pieces of one half occur together and never with those of the other half."""
    signals, _ = planted(20, seed=2)
    sources = signals.unflatten(0, (10, 2))
    estimates = NMF(for_all).separate_batch(sources.mean(1)).estimates
    errors = torch.stack([(estimates - order).square().mean((1, 2, 3, 4)) for order in (sources, sources.flip(1))])
    assert errors.min(0).values.max() < 0.01 * sources.square().mean()


def test_equal_classes_share_a_dictionary_and_are_exchangeable(by_class):
    method, conditions = NMF(by_class, num_sources=3), torch.tensor([[0, 1, 0], [1, 1, 1], [1, 0, 0]])
    assert method.exchangeable(conditions, 3).tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 1]]
    signals, _ = planted(2, seed=3)
    estimates = method.separate_batch(signals[:1], torch.tensor([[0, 1, 0]])).estimates
    assert estimates.shape == (1, 3, *SHAPE)
    torch.testing.assert_close(estimates.clamp(max=1).mean(1), signals[:1], atol=0.4, rtol=0)
    assert not estimates[0, 1].flatten()[:12].gt(0.1).any()  # nothing of class 0 is left to class 1


def test_sources_of_one_dictionary_are_exchangeable(for_all):
    assert NMF(for_all).exchangeable(None, 1).tolist() == [[0, 0]]
    with pytest.raises(LassError, match="Classes were given, but this is one dictionary for all classes"):
        NMF(for_all).exchangeable(torch.tensor([[3, 4]]), 1)


def test_a_mixture_does_not_depend_on_its_batch_and_estimates_stay_in_range(for_all):
    signals, _ = planted(6, seed=4)
    together = NMF(for_all).separate_batch(signals.double()).estimates
    alone = torch.cat([NMF(for_all).separate_batch(signal[None]).estimates for signal in signals])
    torch.testing.assert_close(together, alone)
    assert together.dtype == torch.float32
    assert together.max() <= 1
    black = NMF(for_all).separate_batch(torch.zeros(1, *SHAPE)).estimates
    assert not black.any()


def test_the_solution_is_that_of_least_squares_where_this_is_not_negative():
    random = np.random.default_rng(0)
    components = np.abs(random.normal(size=(5, 30)))
    activations = np.array([0.0, 1.0, 0.5, 0.0, 2.0])
    np.testing.assert_allclose(non_negative_solution(components, activations @ components), activations, atol=0.02)


def test_components_join_the_seed_of_their_highest_affinity():
    affinity = np.array([[1.0, 0.9, 0.1, 0.2], [0.9, 1.0, 0.3, 0.1], [0.1, 0.3, 1.0, 0.8], [0.2, 0.1, 0.8, 1.0]])
    groups = divided(np.array([1.0, 0.5, 0.2, 0.4]), affinity, 2)  # seeds: 0, then 3, as 0.4 · 0.8 is the largest
    assert groups.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_dictionaries_are_saved_and_loaded(by_class, tmp_path):
    by_class.save_pretrained(tmp_path / "dictionaries")
    signals, classes = planted(2, seed=5)
    loaded = NMF(str(tmp_path / "dictionaries"))
    torch.testing.assert_close(loaded.dictionaries.components, by_class.components)
    mixture, conditions = signals.mean(0)[None], classes[None]
    torch.testing.assert_close(
        loaded.separate_batch(mixture, conditions).estimates,
        NMF(by_class).separate_batch(mixture, conditions).estimates,
    )
    with pytest.raises(LassError, match="make train-nmf DATASET=nowhere"):
        NMF("runs/nowhere/dictionaries/dictionaries")


def test_bad_input_is_named(by_class):
    signals, classes = planted(20)
    method = NMF(by_class)
    for call, words in [
        (lambda: method.separate_batch(signals), "give the classes of the sources"),
        (lambda: method.separate_batch(signals[:1], torch.tensor([[0, 2]])), "Expected classes 0…1"),
        (lambda: method.separate_batch(signals[:1], torch.tensor([[0, 1, 1]])), r"conditions of shape \(1, 2\)"),
        (lambda: method.separate_batch(torch.zeros(1, 1, 5, 5)), r"for signals of shape \(1, 4, 6\)"),
        (lambda: NMF(by_class, num_sources=1), "num_sources of NMF"),
        (lambda: NMF(by_class, largest=0.0), "largest of NMF"),
        (lambda: NMF(by_class, mixing_weights=[1.0, 1.0]), "weights"),
        (lambda: NMFDictionaries.fit(-signals, num_components=4), "non-negative"),
        (lambda: NMFDictionaries.fit(signals, classes, num_components=11), "make num_components smaller than 11"),
        (lambda: NMFDictionaries.fit(signals, classes, 4, num_classes=1), r"Expected classes 0…0, got 0…1"),
        (lambda: NMFDictionaries(SHAPE, num_components=0), "num_components of NMFDictionaries"),
        (lambda: NMFDictionaries(()), "shape of NMFDictionaries"),
    ]:
        with pytest.raises(LassError, match=words):
            call()
