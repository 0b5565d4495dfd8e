"""Robust PCA: a spectrogram as the sum of a matrix of low rank and a sparse one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from lass.errors import check_number
from lass.methods.masking import BackgroundMasking, Magnitudes, share_of

GROWTH = 1.5  # factor of the penalty from one iteration to the next


@dataclass
class RPCA(BackgroundMasking):
    """Separate a background whose spectrogram has low rank from a foreground whose spectrogram is sparse.

    Few spectra that recur, such as those of a bass's notes or of drums, span a matrix of low rank L; the rest is the
    sparse matrix E (see `robust_pca`). The background's mask is |L| / (|L| + |E|), or |L| ≥ |E| if `binary`, as in the
    paper.

    Args:
        sparsity: Factor of the weight of the sparse part's 1-norm, relative to 1 / √max(frequencies, frames); a larger
            one moves energy to the background.
        max_iterations: Largest number of iterations.
        tolerance: Stop when the relative error of L + E is below this.

    Source: Huang et al. 2012, "Singing-voice separation from monaural recordings using robust principal component
    analysis" (ICASSP), section 2.
    """

    sparsity: float = 1.0
    max_iterations: int = 40
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sparsity of RPCA", self.sparsity, above=0)
        check_number("max_iterations of RPCA", self.max_iterations, at_least=1, whole=True)
        check_number("tolerance of RPCA", self.tolerance, above=0, below=1)

    def background_share(self, magnitudes: Magnitudes) -> Magnitudes:
        """See `BackgroundMasking`."""
        weight = self.sparsity / max(magnitudes.shape) ** 0.5
        low_rank, sparse = robust_pca(magnitudes, weight, self.tolerance, self.max_iterations)
        return share_of(np.abs(low_rank), np.abs(sparse))


def robust_pca(
    matrix: Float[np.ndarray, "rows columns"],
    weight: float | None = None,
    tolerance: float = 1e-7,
    max_iterations: int = 100,
) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns"]]:
    """Divide a matrix into one of low rank and a sparse one, by principal component pursuit.

    Minimises ‖L‖∗ + weight · ‖E‖₁ subject to L + E = matrix, with the nuclear norm ‖·‖∗ and the sum of magnitudes ‖·‖₁,
    by the inexact augmented Lagrange multiplier method.

    Args:
        matrix: (rows, columns), not all 0.
        weight: Weight of the sparse part; default 1 / √max(rows, columns).
        tolerance: Stop when ‖matrix - L - E‖ is below this times ‖matrix‖ (Frobenius norms).
        max_iterations: Largest number of iterations.

    Returns:
        Low-rank and sparse part, (rows, columns) each.

    Source: Candès et al. 2011 (arXiv:0912.3599), Eq. 1.1; Lin, Chen and Ma 2010 (arXiv:1009.5055), Algorithm 5.
    """
    if weight is None:
        weight = 1 / max(matrix.shape) ** 0.5
    spectral_norm, norm = float(np.linalg.norm(matrix, 2)), float(np.linalg.norm(matrix))
    multiplier = matrix / max(spectral_norm, float(np.abs(matrix).max()) / weight)
    penalty, sparse = 1.25 / spectral_norm, np.zeros_like(matrix)
    for _ in range(max_iterations):
        low_rank = _shrunk_singular_values(matrix - sparse + multiplier / penalty, 1 / penalty)
        sparse = _shrunk(matrix - low_rank + multiplier / penalty, weight / penalty)
        error = matrix - low_rank - sparse
        multiplier = multiplier + penalty * error
        penalty = penalty * GROWTH
        if np.linalg.norm(error) < tolerance * norm:
            break
    return low_rank.astype(matrix.dtype), sparse.astype(matrix.dtype)


def _shrunk(values: np.ndarray, by: float) -> np.ndarray:
    """Soft thresholding: magnitudes reduced by `by`, to no less than 0."""
    return np.sign(values) * np.maximum(np.abs(values) - by, 0)


def _shrunk_singular_values(matrix: np.ndarray, by: float) -> np.ndarray:
    left, values, right = scipy.linalg.svd(matrix, full_matrices=False, check_finite=False)
    return (left * _shrunk(values, by)) @ right
