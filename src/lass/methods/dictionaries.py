"""Dictionaries of non-negative matrix factorisation (NMF), learned on single sources, and their artifact."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import Artifact, load_artifact, register
from lass.errors import LassError, check_number, check_sizes
from lass.optional import optional_package

MOST_VALUES, MOST_COMPONENTS, MOST_CLASSES = 2**22, 2**14, 10**5


@register
class NMFDictionaries(Artifact):
    """Non-negative components whose weighted sums approximate single sources: one dictionary per class, or one for all.

    `components` is (dictionaries, components, values), each of norm 1, for signals of `shape` flattened to values.
    `affinity` is (dictionaries, components, components): the cosine similarity of the activations of two components
    over the training signals, in [0, 1]. It is high for components that occur together in one source.

    Args:
        shape: Shape of a signal, (channels, *space).
        num_components: Number of components of each dictionary.
        num_classes: Number of classes, each with a dictionary of its own; null for one dictionary for all signals.

    Raises:
        LassError: if a size is out of range.

    Source: Lee and Seung 1999, "Learning the parts of objects by non-negative matrix factorization" (Nature 401).
    """

    kind = "dictionaries"
    components: Tensor
    affinity: Tensor

    def __init__(self, shape: Sequence[int], num_components: int = 64, num_classes: int | None = None) -> None:
        super().__init__()
        if not isinstance(shape, Sequence) or isinstance(shape, str) or not shape:
            raise LassError(f"shape of NMFDictionaries must be the sizes of a signal, not {shape!r:.200}.")
        for size in shape:
            check_number("each size in shape of NMFDictionaries", size, at_least=1, at_most=MOST_VALUES, whole=True)
        check_number("values of a signal of NMFDictionaries", math.prod(shape), at_most=MOST_VALUES, whole=True)
        check_sizes(MOST_COMPONENTS, **{"num_components of NMFDictionaries": num_components})
        if num_classes is not None:
            check_sizes(MOST_CLASSES, **{"num_classes of NMFDictionaries": num_classes})
        self.shape, self.num_components, self.num_classes = tuple(shape), num_components, num_classes
        self.config = {"shape": list(shape), "num_components": num_components, "num_classes": num_classes}
        number = 1 if num_classes is None else num_classes
        self.register_buffer("components", torch.zeros(number, num_components, math.prod(shape)))
        self.register_buffer("affinity", torch.zeros(number, num_components, num_components))

    @classmethod
    def fit(
        cls,
        signals: Float[Tensor, "signals channels *space"],
        classes: Int[Tensor, "signals"] | None = None,
        num_components: int = 64,
        *,
        num_classes: int | None = None,
        max_iterations: int = 200,
        seed: int = 0,
    ) -> NMFDictionaries:
        """Learn dictionaries from single sources by scikit-learn's NMF (coordinate descent, NNDSVDa start).

        Args:
            signals: Non-negative training signals, (signals, channels, *space).
            classes: Class of each signal, for one dictionary per class; None for one dictionary for all.
            num_components: Number of components of each dictionary.
            num_classes: Number of classes; default the largest class + 1.
            max_iterations: Largest number of iterations per dictionary.
            seed: Seed of scikit-learn's randomised SVD.

        Raises:
            LassError: if signals are negative or not finite, a class is out of range, or a class has fewer signals than
                components.
        """
        check_number("max_iterations", max_iterations, at_least=1, whole=True)
        if not signals.isfinite().all() or (signals < 0).any():
            raise LassError(
                "NMF needs finite non-negative signals, such as images in [0, 1]: some are negative or NaN."
            )
        if classes is None:
            groups = [signals]
        else:
            num_classes = int(classes.max()) + 1 if num_classes is None else num_classes
            if classes.min() < 0 or classes.max() >= num_classes:
                raise LassError(f"Expected classes 0…{num_classes - 1}, got {int(classes.min())}…{int(classes.max())}.")
            groups = [signals[classes == number] for number in range(num_classes)]
        if num_components > math.prod(signals.shape[1:]):
            raise LassError(
                f"A dictionary cannot have more components than a signal has values: make num_components at most "
                f"{math.prod(signals.shape[1:])}, not {num_components}."
            )
        dictionaries = cls(signals.shape[1:], num_components, None if classes is None else num_classes)
        for number, group in enumerate(groups):
            if len(group) < num_components:
                whose = "There are" if classes is None else f"Class {number} has"
                raise LassError(
                    f"{whose} {len(group)} training signals, fewer than the dictionary has components: make "
                    f"num_components smaller than {num_components}."
                )
            rows = group.flatten(1).double().cpu().numpy()
            decomposition = optional_package("sklearn.decomposition", "scikit-learn", "train")
            model = decomposition.NMF(
                num_components, init="nndsvda", max_iter=max_iterations, random_state=seed, tol=1e-4
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # max_iterations may end the iterations
                activations = model.fit_transform(rows)
            norms = np.linalg.norm(model.components_, axis=1)
            components = model.components_ / np.maximum(norms, np.finfo(float).tiny)[:, None]
            dictionaries.components[number] = torch.from_numpy(components).float()
            dictionaries.affinity[number] = torch.from_numpy(_cosine_similarity(activations * norms)).float()
        return dictionaries

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> NMFDictionaries:
        """Load dictionaries from the folder of `save_pretrained`; see `load_artifact`."""
        return cast(NMFDictionaries, load_artifact(folder, cls.kind))


def _cosine_similarity(activations: Float[np.ndarray, "signals components"]) -> Float[np.ndarray, "components others"]:
    lengths = np.linalg.norm(activations, axis=0)
    unit = activations / np.maximum(lengths, np.finfo(float).tiny)
    return np.clip(unit.T @ unit, 0, 1)
