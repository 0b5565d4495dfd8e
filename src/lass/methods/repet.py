"""REPET-SIM: the repeating background of a mixture by the nearest neighbours of its frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from lass.errors import check_number
from lass.methods.masking import BackgroundMasking, Magnitudes
from lass.optional import optional_package


@dataclass
class REPET(BackgroundMasking):
    """Separate a background that repeats, not necessarily at a fixed period, from a foreground that varies.

    The model of a frame is the median of the frames with the most similar spectra (cosine similarity) at least
    `min_distance` frames away, bounded by the frame itself: what is repeated survives the median. The background's mask
    is model / magnitude.

    Args:
        num_neighbours: Number of similar frames.
        min_distance: Least distance between a frame and its neighbours in frames; at most half of the signal is used.

    Source: Rafii and Pardo 2012, "Music/voice separation using the similarity matrix" (ISMIR), section 2; the median by
    `librosa.decompose.nn_filter`.
    """

    num_neighbours: int = 20
    min_distance: int = 43

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("num_neighbours of REPET", self.num_neighbours, at_least=1, whole=True)
        check_number("min_distance of REPET", self.min_distance, at_least=1, whole=True)

    def background_share(self, magnitudes: Magnitudes) -> Magnitudes:
        """See `BackgroundMasking`."""
        decompose = optional_package("librosa.decompose", "librosa", "audio")
        distance = min(self.min_distance, (magnitudes.shape[1] - 1) // 2)  # so that every frame has a neighbour
        if distance < 1:  # too few frames for a repetition
            return np.full_like(magnitudes, 0.5)
        neighbours = similar_frames(magnitudes, self.num_neighbours, distance)
        model = decompose.nn_filter(magnitudes, rec=neighbours, aggregate=np.median)
        repeated = np.minimum(model, magnitudes)
        return np.divide(repeated, magnitudes, out=np.full_like(magnitudes, 0.5), where=magnitudes > 0)


def similar_frames(magnitudes: Magnitudes, number: int, distance: int) -> scipy.sparse.csc_matrix:
    """The frames most similar to each frame, as a sparse matrix of booleans: entry [i, j] if i is a neighbour of j.

    `librosa.segment.recurrence_matrix` is not used: it drops identical frames, whose distance is 0, and without
    distances it takes the first of the candidates in time instead of the nearest.

    Args:
        magnitudes: (frequencies, frames).
        number: Number of neighbours of a frame, or all frames that are far enough if these are fewer.
        distance: Least distance of a neighbour in frames.
    """
    norms = np.linalg.norm(magnitudes, axis=0)
    unit = magnitudes / np.where(norms > 0, norms, 1)
    similarity = unit.T @ unit
    time = np.arange(len(similarity))
    similarity[np.abs(time[:, None] - time) < distance] = -1  # below any similarity of non-negative spectra
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :number]
    valid = np.take_along_axis(similarity, nearest, axis=1) >= 0
    columns = np.broadcast_to(time[:, None], nearest.shape)[valid]
    entries = (np.ones(len(columns), dtype=bool), (nearest[valid], columns))
    return scipy.sparse.csc_matrix(entries, shape=similarity.shape)
