"""Sufficient statistics of sums of powers, and the log-sum likelihood fitted to them."""

# G groups, d channels of the latents

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
from lass.likelihood.log_sum import LogSumLikelihood, log_sum

MOMENTS = "log-sum moments"
FACTS = ("num_codes", "dim", "num_groups", "floor", "weights", "codec_fingerprint")  # must be equal for merging


class LogSumMoments:
    """Sufficient statistics for a `LogSumLikelihood`.

    The deviation of a mixture is r = v − log_sum(c₁, c₂), for its latents v and the codebook vectors c₁, c₂ of its
    sources. The statistics of each group, in float64, are the number of positions (G,), Σ r (G, d) and Σ r rᵀ (G, d,
    d).

    Args:
        num_codes: Number of codes of all groups.
        dim: Number d of channels of the latents.
        num_groups: Groups of codes.
        floor: Power ε that the codec adds.
        weights: Mixing weights of the two sources.
        device: Device of the sums; replaced by the CPU if it has no float64.
        codec_fingerprint: Fingerprint of the codec that the codes come from.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        num_groups: int,
        floor: float,
        weights: Sequence[float] = (0.5, 0.5),
        device: torch.device | str = "cpu",
        codec_fingerprint: str | None = None,
    ) -> None:
        self.num_codes, self.dim, self.num_groups, self.floor = num_codes, dim, num_groups, floor
        self.weights, self.codec_fingerprint = list(weights), codec_fingerprint
        self.device = torch.device(device if widest_float(device) == torch.float64 else "cpu")
        zeros = partial(torch.zeros, dtype=torch.float64, device=self.device)
        self._state = {
            "counts": zeros(num_groups),
            "deviations": zeros(num_groups, dim),
            "products": zeros(num_groups, dim, dim),
        }

    def add(
        self,
        mixture_codes: Int[Tensor, " count"],
        vectors: Float[Tensor, "count 2 dim"],
        mixture_latents: Float[Tensor, "count dim"],
    ) -> None:
        """Add positions of mixtures.

        Args:
            mixture_codes: Codes of the mixtures, which say to which group a position belongs.
            vectors: Codebook vectors of the sources' codes.
            mixture_latents: Unquantised latents of the mixtures.
        """
        check_finite({"latents": mixture_latents}, "This batch")
        expected = log_sum(vectors.to(self.device).double().unbind(1), self.weights, self.floor)
        deviations = mixture_latents.to(self.device).double() - expected
        groups = mixture_codes.to(self.device) // (self.num_codes // self.num_groups)
        self._state["counts"] += torch.bincount(groups, minlength=self.num_groups)
        self._state["deviations"].index_add_(0, groups, deviations)
        for group in range(self.num_groups):
            own = deviations[groups == group]
            self._state["products"][group] += own.T @ own

    def merge(self, other: LogSumMoments) -> None:
        """Add the sums of another object.

        Raises:
            LassError: if the two are not of the same codec and mixing weights.
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

    def load_state_dict(self, state: dict[str, Tensor]) -> LogSumMoments:
        """Replace the sums by those of a `state_dict` and return self."""
        for name, mine in self._state.items():
            mine.copy_(state[name])
        return self

    def to(self, device: torch.device | str) -> LogSumMoments:
        """Return a copy on another device."""
        facts: dict[str, Any] = {name: getattr(self, name) for name in FACTS}
        return LogSumMoments(**facts, device=device).load_state_dict(self._state)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        save_tensors(path, self.state_dict(), {"kind": MOMENTS, **{name: getattr(self, name) for name in FACTS}})

    @classmethod
    def load(cls, path: str | Path) -> LogSumMoments:
        """Read a file written by `save`.

        Raises:
            LassError: if the file is missing, truncated, or not a file of log-sum moments.
        """
        tensors, metadata = load_tensors(path, MOMENTS, verify=True)
        facts: dict[str, Any] = {name: metadata.get(name) for name in FACTS}
        expected: dict[str, tuple[int, ...]] = {}
        if metadata.get("kind") == MOMENTS and isinstance(facts["weights"], list) and len(facts["weights"]) == 2:
            check_sizes(2**21, num_codes=facts["num_codes"])
            check_sizes(2**12, dim=facts["dim"], num_groups=facts["num_groups"])
            for name, numbers in {"floor": [facts["floor"]], "weights": facts["weights"]}.items():
                for number in numbers:
                    check_number(f"{name} of {path}", number, above=0)
            expected = {name: tuple(x.shape) for name, x in cls(**facts, device="meta")._state.items()}
        if {name: tuple(x.shape) for name, x in tensors.items()} != expected or (tensors["counts"] < 0).any():
            raise LassError(f"{path} holds no {MOMENTS}: name the file that `make count` wrote with log_sum=true.")
        return cls(**facts).load_state_dict(tensors)

    def likelihood(
        self, codebook: Float[Tensor, "num_codes dim"], degrees_of_freedom: float = 8.0, ridge: float = 1.0
    ) -> LogSumLikelihood:
        """Fit the likelihood.

        Args:
            codebook: The codec's vectors.
            degrees_of_freedom: ν; smaller values mean heavier tails.
            ridge: Multiple of the mean diagonal element that is added to the diagonal of the covariance of the
                deviations.

        Raises:
            LassError: if a group has no positions, the codebook has another size, or a setting is out of range.
        """
        check_number("degrees_of_freedom", degrees_of_freedom, above=0)
        check_number("ridge", ridge, above=0)
        counts = self._state["counts"]
        if not counts.all():
            raise LassError("Nothing was counted yet, so there is no likelihood: count mixtures of sources first.")
        if tuple(codebook.shape) != (self.num_codes, self.dim):
            raise LassError(
                f"Expected a codebook of shape ({self.num_codes}, {self.dim}), got {tuple(codebook.shape)}: it belongs "
                "to another codec."
            )
        bias = self._state["deviations"] / counts[:, None]
        covariance = self._state["products"] / counts[:, None, None] - bias[:, :, None] * bias[:, None]
        scale = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        floor = ridge * scale[:, None, None] * torch.eye(self.dim).to(covariance)
        factor, failed = torch.linalg.cholesky_ex(covariance + floor)
        if failed.any():
            raise LassError("The products of the latents are no covariance, so these moments are damaged: count again.")
        whitening = torch.linalg.inv(factor).mT
        effective_dim = (whitening.mT @ covariance @ whitening).diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-6)
        table = {
            "codebook": codebook.to(self.device).float(),
            "bias": bias.float(),
            "whitening": whitening.float().contiguous(),
            "tail": torch.stack([torch.full_like(effective_dim, degrees_of_freedom), effective_dim], 1).float(),
            "weights": torch.tensor(self.weights, device=self.device),
            "floor": torch.tensor(self.floor, device=self.device),
        }
        return LogSumLikelihood(self.num_codes, table, self.codec_fingerprint)
