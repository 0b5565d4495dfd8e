"""Separation of non-negative signals with dictionaries of non-negative matrix factorisation (NMF)."""

# S sources, K components of a dictionary

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lass.data.module import MAX_SOURCES
from lass.errors import LassError, check_number
from lass.methods.dictionaries import NMFDictionaries
from lass.methods.signals import checked_conditions, checked_mixtures, weights_or_mean
from lass.optional import optional_package
from lass.separation.result import SeparationResult


class NMF:
    """Separate images, or other non-negative signals, as sums of the components of dictionaries learned on sources.

    The activations of all components that can occur in a mixture are its non-negative least-squares solution. With the
    weighted sum Pₛ of the components of source s and its mixing weight wₛ, estimate s is mixture · Pₛ / Σₜ Pₜ / wₛ, so
    it has the scale of source s, and the estimates mix into the mixture where `largest` does not limit them.

    With one dictionary per class (weakly supervised), the components of source s are those of its class, and the
    classes are given as `conditions`. Sources that share a dictionary, as all do if there is one for all
    (unsupervised), divide its components among them (see `divided`): nothing in a non-negative sum tells which
    component belongs to which source, but components that occurred together in training sources are likely to be of
    one source here too.

    Args:
        dictionaries: Dictionaries, or the folder that they are saved in.
        num_sources: Number S of sources of a mixture.
        mixing_weights: Weight of each source in the mixtures; null for their mean, 1/S each.
        largest: Upper limit of the values of the estimates, 1 for images; null for none.

    Raises:
        LassError: if the folder holds no dictionaries, or a setting is out of range.

    Source: Lee and Seung 1999 (Nature 401); for separation with learned dictionaries Smaragdis et al. 2014, "Static and
    dynamic source separation using nonnegative factorizations" (IEEE Signal Processing Magazine 31), section "Source
    separation". The row NMF in Table 2 of LASS (arXiv:2301.08562) is the unsupervised case. The division of a shared
    dictionary is our choice.
    """

    def __init__(
        self,
        dictionaries: NMFDictionaries | str | Path,
        num_sources: int = 2,
        mixing_weights: Sequence[float] | None = None,
        largest: float | None = 1.0,
    ) -> None:
        check_number("num_sources of NMF", num_sources, at_least=2, at_most=MAX_SOURCES, whole=True)
        weights_or_mean(mixing_weights, num_sources)
        if largest is not None:
            check_number("largest of NMF", largest, above=0)
        if not isinstance(dictionaries, NMFDictionaries):
            dictionaries = NMFDictionaries.from_pretrained(dictionaries)
        self.dictionaries, self.num_sources = dictionaries, num_sources
        self.mixing_weights, self.largest = mixing_weights, largest

    @torch.no_grad()
    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> SeparationResult:
        """Separate a batch of mixtures.

        Args:
            mixtures: (M, channels, *space), of the shape that the dictionaries were learned on.
            conditions: (M, S) classes, if there is one dictionary per class; else not used.
            seed, indices: Not used, as nothing is random.

        Returns:
            Result with estimates (M, S, channels, *space), float32, on the device of the mixtures.

        Raises:
            LassError: if the mixtures are of another shape or not finite, or classes are missing or out of range.
        """
        shape = self.dictionaries.shape
        signals = checked_mixtures(mixtures, len(shape) + 1, f"(mixtures, {', '.join(map(str, shape))})")
        if tuple(signals.shape[1:]) != shape:
            raise LassError(
                f"The dictionaries are for signals of shape {shape}, but the mixtures have {tuple(signals.shape[1:])}: "
                "learn dictionaries for this data."
            )
        classes = self._classes(conditions, len(signals)).tolist()
        rows = signals.flatten(1).double().cpu().numpy()
        estimates = np.stack([self._estimates(row, own) for row, own in zip(rows, classes, strict=True)])
        return SeparationResult(torch.from_numpy(estimates).float().unflatten(2, shape).to(mixtures.device))

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Groups of exchangeable sources, (num_mixtures, S) long: equal numbers for sources that share a dictionary."""
        classes = self._classes(conditions, num_mixtures)
        return (classes[:, :, None] == classes[:, None]).long().argmax(2)

    def _classes(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Number of the dictionary of each source, (num_mixtures, S) long."""
        num_classes = self.dictionaries.num_classes
        if num_classes is None and conditions is not None:
            raise LassError(
                "Classes were given, but this is one dictionary for all classes: name dictionaries that were learned "
                "with --model.by_class=true, or give no classes."
            )
        if num_classes is None:
            return torch.zeros(num_mixtures, self.num_sources, dtype=torch.long)
        if conditions is None:
            raise LassError(
                f"These dictionaries belong to {num_classes} classes: give the classes of the sources as conditions, "
                "or learn one dictionary for all."
            )
        conditions = checked_conditions(conditions, num_mixtures, self.num_sources, torch.device("cpu"))
        if conditions.min() < 0 or conditions.max() >= num_classes:
            raise LassError(f"Expected classes 0…{num_classes - 1}, got {sorted(set(conditions.flatten().tolist()))}.")
        return conditions

    def _estimates(self, mixture: Float[np.ndarray, "values"], classes: list[int]) -> Float[np.ndarray, "S values"]:
        distinct = sorted(set(classes))
        components = [self.dictionaries.components[number].double().cpu().numpy() for number in distinct]
        activations = np.split(non_negative_solution(np.concatenate(components), mixture), len(distinct))
        weights = np.array(weights_or_mean(self.mixing_weights, self.num_sources))[:, None]
        parts = np.empty((self.num_sources, len(mixture)))
        for number, own, active in zip(distinct, components, activations, strict=True):
            sources = [s for s, each in enumerate(classes) if each == number]
            affinity = self.dictionaries.affinity[number].double().cpu().numpy()
            for source, chosen in zip(sources, divided(active, affinity, len(sources)), strict=True):
                parts[source] = (active * chosen) @ own
        total = parts.sum(0)
        # Where no component is active, the sources share the mixture equally.
        shares = np.divide(parts, total, out=np.full_like(parts, 1 / self.num_sources), where=total > 0)
        return np.minimum(mixture * shares / weights, np.inf if self.largest is None else self.largest)


def non_negative_solution(
    components: Float[np.ndarray, "K values"], signal: Float[np.ndarray, "values"]
) -> Float[np.ndarray, "K"]:
    """Non-negative activations whose weighted sum of components is closest to a signal, by coordinate descent."""
    decomposition = optional_package("sklearn.decomposition", "scikit-learn", "train")
    return decomposition.non_negative_factorization(
        signal[None].clip(min=0), H=components, n_components=len(components), update_H=False, tol=1e-6, max_iter=1000
    )[0][0]


def divided(
    activations: Float[np.ndarray, "K"], affinity: Float[np.ndarray, "K K"], num_groups: int
) -> Bool[np.ndarray, "groups K"]:
    """Divide components among sources, so that components that occur together in training sources stay together.

    The seed of the first group is the component with the largest activation; the seed of each further group the one
    with the largest activation times 1 - its highest affinity to an earlier seed. Each component joins the seed to
    which its affinity is highest, the first of equal ones.

    Args:
        activations: Activations in the mixture, (K,).
        affinity: Affinity of components in [0, 1], (K, K); 1 to itself.
        num_groups: Number of sources.

    Returns:
        Membership of each component in each group, (num_groups, K); every component is in one group.
    """
    closest = np.zeros(len(activations))  # affinity to the closest seed
    group = np.zeros(len(activations), dtype=int)
    for number in range(num_groups):
        seed = int(np.argmax(activations * (1 - closest)))
        joins = affinity[seed] > closest
        group[joins], closest = number, np.maximum(closest, affinity[seed])
    return group == np.arange(num_groups)[:, None]
