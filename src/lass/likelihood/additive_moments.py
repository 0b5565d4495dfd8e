"""Sufficient statistics of quantisation errors and mixtures, and the additive likelihood fitted to them."""

# K num_codes, d channels of the latents, S sources

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lass.artifacts import check_finite, load_tensors, save_tensors
from lass.devices.numerics import widest_float
from lass.errors import LassError, check_number, check_sizes
from lass.likelihood.additive import AdditiveLikelihood

MOMENTS = "additive moments"
FACTS = ("num_codes", "dim", "codec_fingerprint")  # attributes that must be equal for merging
SHRINKAGE = 4.0  # number of occurrences of a code at which its own statistics weigh as much as the pooled ones


class AdditiveMoments:
    """Sufficient statistics for an `AdditiveLikelihood`; memory is linear in the codebook, for any number of sources.

    The latents of a source with code z are its codebook vector plus a quantisation error e. The latents of a mixture
    are the weighted sum of the sources' latents plus an error n of the encoder's linearity. The statistics, in float64,
    are the number of occurrences of each code (K,), Σ e per code (K, d), Σ |e|² per code (K,), Σ e eᵀ (d, d), and
    Σ n nᵀ (d, d) with the number of mixtures.

    Args:
        num_codes: Size K of the codebook.
        dim: Number d of channels of the latents.
        device: Device of the sums; replaced by the CPU if it has no float64.
        codec_fingerprint: Fingerprint of the codec that the codes come from.
    """

    def __init__(
        self, num_codes: int, dim: int, device: torch.device | str = "cpu", codec_fingerprint: str | None = None
    ) -> None:
        self.num_codes, self.dim, self.codec_fingerprint = num_codes, dim, codec_fingerprint
        self.device = torch.device(device if widest_float(device) == torch.float64 else "cpu")
        zeros = partial(torch.zeros, dtype=torch.float64, device=self.device)
        self._state = {
            "counts": zeros(num_codes),
            "errors": zeros(num_codes, dim),
            "squares": zeros(num_codes),
            "error_products": zeros(dim, dim),
            "mixture_products": zeros(dim, dim),
            "num_mixtures": zeros(()),
        }

    def add(
        self,
        codes: Int[Tensor, "count S"],
        errors: Float[Tensor, "count S dim"],
        latents: Float[Tensor, "count S dim"],
        mixture_latents: Float[Tensor, "count dim"],
        weights: Sequence[float] | None = None,
    ) -> None:
        """Add positions of mixtures of S sources; S may differ between calls.

        Args:
            codes: Codes of the sources.
            errors: Quantisation errors of the sources: their latents minus their codebook vectors.
            latents: Unquantised latents of the sources.
            mixture_latents: Unquantised latents of the mixtures.
            weights: Mixing weights; default 1 / S each.
        """
        check_finite({"latents": mixture_latents, "errors": errors}, "This batch")
        num_sources, state = codes.shape[1], self._state
        factors = torch.tensor(weights or [1 / num_sources] * num_sources, dtype=torch.float64, device=self.device)
        sums = (factors[:, None] * latents.to(self.device).double()).sum(1)
        nonlinear = mixture_latents.to(self.device).double() - sums
        codes, errors = codes.flatten().to(self.device), errors.flatten(0, 1).to(self.device).double()
        state["counts"] += torch.bincount(codes, minlength=self.num_codes)
        state["errors"].index_add_(0, codes, errors)
        state["squares"].index_add_(0, codes, errors.square().sum(1))
        state["error_products"] += errors.T @ errors
        state["mixture_products"] += nonlinear.T @ nonlinear
        state["num_mixtures"] += len(nonlinear)

    def merge(self, other: AdditiveMoments) -> None:
        """Add the sums of another object.

        Raises:
            LassError: if num_codes, dim or codec_fingerprint differ.
        """
        for name in FACTS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise LassError(f"These moments do not belong together: {name} is {mine} here and {theirs} there.")
        for name, sums in self._state.items():
            sums += other._state[name].to(sums)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums, not copied; see the class."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Tensor]) -> AdditiveMoments:
        """Replace the sums by those of a `state_dict` and return self."""
        for name, mine in self._state.items():
            mine.copy_(state[name])
        return self

    def to(self, device: torch.device | str) -> AdditiveMoments:
        """Return a copy on another device."""
        return AdditiveMoments(self.num_codes, self.dim, device, self.codec_fingerprint).load_state_dict(self._state)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        save_tensors(path, self.state_dict(), {"kind": MOMENTS, **{name: getattr(self, name) for name in FACTS}})

    @classmethod
    def load(cls, path: str | Path) -> AdditiveMoments:
        """Read a file written by `save`.

        Raises:
            LassError: if the file is missing, truncated, or not a file of additive moments.
        """
        tensors, metadata = load_tensors(path, MOMENTS, verify=True)
        facts: dict[str, Any] = {name: metadata.get(name) for name in FACTS}
        expected: dict[str, tuple[int, ...]] = {}
        if metadata.get("kind") == MOMENTS:
            check_sizes(2**21, num_codes=facts["num_codes"], dim=facts["dim"])
            expected = {name: tuple(x.shape) for name, x in cls(**facts, device="meta")._state.items()}
        sums = ("counts", "squares", "num_mixtures")
        if {name: tuple(x.shape) for name, x in tensors.items()} != expected or any(
            (tensors[name] < 0).any() for name in sums
        ):
            raise LassError(f"{path} holds no {MOMENTS}: name the file that `make count` wrote with additive=true.")
        return cls(**facts).load_state_dict(tensors)

    def likelihood(
        self, codebook: Float[Tensor, "num_codes dim"], degrees_of_freedom: float = 4.0, ridge: float = 1.0
    ) -> AdditiveLikelihood:
        """Fit the likelihood.

        The vector of a code is the mean of the latents that have it, shrunk towards its codebook vector; the variance
        of a code is the mean square of its quantisation errors, shrunk towards that of all codes.

        Args:
            codebook: The codec's vectors.
            degrees_of_freedom: ν; smaller values mean heavier tails.
            ridge: Multiple of the mean diagonal element that is added to the diagonal of the noise covariance.
                Low-variance directions are thereby down-weighted.

        Raises:
            LassError: if nothing was added, the codebook has another size, or a setting is out of range.
        """
        check_number("degrees_of_freedom", degrees_of_freedom, above=0)
        check_number("ridge", ridge, at_least=0)
        state, num_mixtures = self._state, self._state["num_mixtures"]
        if not num_mixtures or not state["counts"].any():
            raise LassError("Nothing was counted yet, so there is no likelihood: count mixtures of sources first.")
        if tuple(codebook.shape) != (self.num_codes, self.dim):
            raise LassError(
                f"Expected a codebook of shape ({self.num_codes}, {self.dim}), got {tuple(codebook.shape)}: it belongs "
                "to another codec."
            )
        counts = state["counts"]
        quantisation, linearity = state["error_products"] / counts.sum(), state["mixture_products"] / num_mixtures
        # The whitening is that of a mean of two sources; other mixtures have nearly the same shape of covariance.
        covariance = quantisation / 2 + linearity
        rounding = 1e-9 * codebook.to(covariance).square().mean() + torch.finfo(torch.float64).tiny
        floor = (ridge * covariance.diagonal().mean() + rounding) * torch.eye(self.dim).to(covariance)
        factor, failed = torch.linalg.cholesky_ex(covariance + floor)
        if failed:
            raise LassError("The products of the latents are no covariance, so these moments are damaged: count again.")
        whitening = torch.linalg.inv(factor).T
        # Effective dimension with the ridge: trace((covariance + floor)⁻¹ covariance).
        effective_dim = (whitening.T @ covariance @ whitening).trace().clamp(min=1e-6)
        per_dimension = [(whitening.T @ x @ whitening).trace() / effective_dim for x in (quantisation, linearity)]
        pooled = state["squares"].sum() / counts.sum()
        relative = (state["squares"] + SHRINKAGE * pooled) / (counts + SHRINKAGE) / pooled.clamp(min=1e-300)
        vectors = codebook.to(covariance) + state["errors"] / (counts + SHRINKAGE)[:, None]
        tail = [degrees_of_freedom, effective_dim.item(), max(per_dimension[1].item(), 1e-6)]
        table = {
            "vectors": (vectors @ whitening).float(),
            "variances": (relative * per_dimension[0]).float(),
            "whitening": whitening.float(),
            "tail": torch.tensor(tail, device=self.device),
        }
        return AdditiveLikelihood(self.num_codes, table, self.codec_fingerprint)
