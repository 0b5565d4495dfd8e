"""Likelihood of the mixture's latents for any number of sources: no table of pairs, memory linear in the codebook."""

# K num_codes, d channels of the latents, S sources

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import Origin, fingerprint, load_tensors, save_tensors
from lass.errors import LassError, check_sizes
from lass.likelihood.protocol import Pairs

ADDITIVE = "additive likelihood"
FEW = 100.0  # degrees of freedom up to which rounding of |r|² / ν + σ² hardly changes the log likelihood
MAX_PAIRS = 2**18  # up to this number of pairs, two sources are drawn from the table of all pairs


class AdditiveLikelihood:
    """log p(mixture's latents | codes of S sources) up to a constant, for any S and any mixing weights.

    Let v be the whitened latents of the mixture, u[k] the whitened vector of code k, wₛ the mixing weights and
    r = v − Σₛ wₛ u[zₛ] the residual. The log likelihood is −(ν + d') / 2 · log(1 + |r|² / (ν σ²)) − d' / 2 · log σ²,
    with the variance σ² = σ₀² + Σₛ wₛ² c[zₛ], degrees of freedom ν and effective dimension d'. This is Student's t
    around the weighted sum of the codes' vectors. The variance of the quantisation errors, c, differs between codes;
    σ₀² is the variance due to the encoder not being linear. Nothing in it depends on S, so one likelihood serves any
    number of sources.

    With a ridge in the whitening it has the shape of Student's t, but is not a density, so that `log_evidence` compares
    mixtures and numbers of sources under one such likelihood only.

    Args:
        num_codes: Size K of the codebook.
        table: Tensors, see `state_dict`.
        codec_fingerprint: Fingerprint of the codec that the codes belong to.

    Source: our own, in place of the counted likelihood of LASS (arXiv:2301.08562), Eq. 4, which is for two sources.
    """

    needs_latents = True
    symmetric = True  # in sources of equal mixing weight

    def __init__(self, num_codes: int, table: dict[str, Tensor], codec_fingerprint: str | None = None) -> None:
        self.num_codes, self.codec_fingerprint, self._table = num_codes, codec_fingerprint, table
        self._origin: Origin | None = None
        #: Whitened vector and variance of each code, (K, d) and (K,).
        self.vectors, self.variances = table["vectors"], table["variances"]
        self.squared_norms = self.vectors.square().sum(1)
        self.degrees_of_freedom, self.effective_dim, self.noise = table["tail"].tolist()

    def whiten(self, latents: Float[Tensor, "*batch dim"] | None) -> Float[Tensor, "*batch dim"]:
        """Whitened latents of mixtures.

        Raises:
            LassError: if no latents are given.
        """
        if latents is None:
            raise LassError("This likelihood needs the mixture's latents: pass mixture_latents to separate_codes.")
        return latents.float() @ self._table["whitening"]

    def of_residual(
        self, squared_residual: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"], exponent: float = 1.0
    ) -> Float[Tensor, "*shape"]:
        """Log likelihood, given |r|² and σ², times `exponent`; see the class."""
        half_freedom, half_dim = self.degrees_of_freedom / 2, self.effective_dim / 2
        if self.degrees_of_freedom <= FEW:
            # ν/2 log σ² − (ν + d')/2 log(σ² + |r|²/ν): fewer operations, and log is several times as fast as log1p.
            scale = torch.add(variance, squared_residual, alpha=1 / self.degrees_of_freedom)
            scale = scale.log_().mul_(-exponent * (half_freedom + half_dim))
            return scale.add_(variance.log(), alpha=exponent * half_freedom)
        log_ratio = (squared_residual / (self.degrees_of_freedom * variance)).log1p_()
        log_ratio = log_ratio.mul_(-exponent * (half_freedom + half_dim))
        return log_ratio.sub_(variance.log(), alpha=exponent * half_dim)

    def log_likelihood(
        self,
        codes: Int[Tensor, "*shape S"],
        latents: Float[Tensor, "*shape dim"],
        weights: Sequence[float] | None = None,
    ) -> Float[Tensor, "*shape"]:
        """Log likelihood of the mixture's latents given one code per source.

        Args:
            codes: Codes of the sources.
            latents: Unquantised latents of the mixture.
            weights: Mixing weights; default 1 / S each.
        """
        num_sources = codes.shape[-1]
        factors = torch.tensor(weights or [1 / num_sources] * num_sources, device=codes.device)
        residual = self.whiten(latents) - (factors[:, None] * self.vectors[codes]).sum(-2)
        return self.of_residual(
            residual.square().sum(-1), self.noise + (factors.square() * self.variances[codes]).sum(-1)
        )

    def at(
        self,
        mixture_codes: list[int],
        mixture_latents: Tensor | None = None,
        weights: Sequence[float] | None = None,
    ) -> list[Pairs]:
        """All pairs of codes, for two sources; see `Likelihood`. `weights` are the mixing weights."""
        whitened, (weight_1, weight_2) = self.whiten(mixture_latents), weights or (0.5, 0.5)
        vectors_1, vectors_2 = weight_1 * self.vectors, weight_2 * self.vectors
        # |w₁ u[a] + w₂ u[b]|², (K, K), without the K² vectors.
        squared_means = vectors_1.square().sum(1)[:, None] + vectors_2.square().sum(1) + 2 * vectors_1 @ vectors_2.T
        variance = (self.noise + weight_1**2 * self.variances[:, None] + weight_2**2 * self.variances).flatten()
        first, second = torch.cartesian_prod(*[torch.arange(self.num_codes, device=self.device)] * 2).unbind(1)
        pairs = []
        for latents in whitened:
            projected = 2 * latents @ vectors_1.T, 2 * latents @ vectors_2.T
            squared = latents.square().sum() + squared_means - projected[0][:, None] - projected[1]
            pairs.append(Pairs(first, second, self.of_residual(squared.flatten().clamp(min=0), variance)))
        return pairs

    @property
    def device(self) -> torch.device:
        """Device of the table."""
        return self.vectors.device

    def to(self, device: torch.device | str) -> AdditiveLikelihood:
        """Return the likelihood on another device; self if it is there already."""
        if torch.device(device) == self.device:
            return self
        table = {name: tensor.to(device) for name, tensor in self._table.items()}
        return AdditiveLikelihood(self.num_codes, table, self.codec_fingerprint)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the table.

        `vectors` (K, d): whitened vector of each code; `variances` (K,): variance c of its quantisation error, per
        effective dimension; `whitening` (d, d): matrix by which latents are multiplied from the right; `tail` (3,):
        degrees of freedom, effective dimension and σ₀².
        """
        return dict(self._table)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, or a hard link to the file that this likelihood was loaded from; see `Origin`."""
        if self._origin is not None and self._origin.link(Path(path), fingerprint(self._table)):
            return
        facts = {name: getattr(self, name) for name in ("num_codes", "codec_fingerprint")}
        save_tensors(path, self.state_dict(), {"kind": ADDITIVE, **facts})

    @classmethod
    def load(cls, path: str | Path) -> AdditiveLikelihood:
        """Read a file written by `save`.

        Raises:
            LassError: if the file is missing, truncated, or not a file of an additive likelihood.
        """
        table, metadata = load_tensors(path, ADDITIVE)
        num_codes: Any = metadata.get("num_codes")
        if metadata.get("kind") == ADDITIVE:
            check_sizes(2**21, num_codes=num_codes)
        if metadata.get("kind") != ADDITIVE or not _is_table(table, num_codes):
            raise LassError(f"{path} holds no {ADDITIVE} of this version of lass: make it again.")
        likelihood = cls(num_codes, table, metadata.get("codec_fingerprint"))
        likelihood._origin = Origin.of(path, str(metadata.get("checksum")))
        return likelihood


def _is_table(table: dict[str, Tensor], num_codes: int) -> bool:
    """Whether tensors from a file have the names, shapes and ranges described in `AdditiveLikelihood.state_dict`."""
    if table.keys() != {"vectors", "variances", "whitening", "tail"} or table["whitening"].dim() != 2:
        return False
    dim = len(table["whitening"])
    shapes = {"vectors": (num_codes, dim), "variances": (num_codes,), "whitening": (dim, dim), "tail": (3,)}
    if {name: tuple(x.shape) for name, x in table.items()} != shapes:
        return False
    if not all(x.dtype == torch.float32 and x.isfinite().all() for x in table.values()):
        return False
    return bool((table["tail"] > 0).all() and (table["variances"] >= 0).all())
