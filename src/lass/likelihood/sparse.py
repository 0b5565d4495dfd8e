"""The sparse likelihood p(mixture | first, second), grouped by mixture code."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lass.artifacts import load_tensors, save_tensors
from lass.errors import LassError
from lass.likelihood.protocol import Pairs

KIND = "likelihood"


class SparseLikelihood:
    """The non-zero entries of the paper's tensor P; what was never counted is not stored.

    A mixture code m that was never counted at all would leave no pair to choose from. Then the one pair that is certain
    stands in: (m, m) with log likelihood 0, because the mean of a signal with itself is that signal.

    Args:
        num_codes: size K of the codebook.
        first, second, mixture: coordinates of the entries, sorted by mixture, then first, then second.
        log_likelihood: log of the entries.
        codec_fingerprint: of the codec that the codes belong to.

    Source: LASS (arXiv:2301.08562), section "Discrete Likelihoods for Source Separation"; the stand-in is our own.
    """

    def __init__(
        self,
        num_codes: int,
        first: Int[Tensor, " nonzeros"],
        second: Int[Tensor, " nonzeros"],
        mixture: Int[Tensor, " nonzeros"],
        log_likelihood: Float[Tensor, " nonzeros"],
        codec_fingerprint: str | None = None,
    ) -> None:
        self.num_codes, self.codec_fingerprint = num_codes, codec_fingerprint
        self._first, self._second, self._log_likelihood = first, second, log_likelihood
        self._keys = (mixture * num_codes + first) * num_codes + second
        boundaries = torch.arange(num_codes + 1, device=mixture.device)
        self._starts: list[int] = torch.searchsorted(mixture.contiguous(), boundaries).tolist()

    def state_dict(self) -> dict[str, Tensor]:
        """The entries: sorted keys (mixture · K + first) · K + second, and their values."""
        return {"keys": self._keys, "log_likelihood": self._log_likelihood}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        metadata = {"kind": KIND, "num_codes": self.num_codes, "codec_fingerprint": self.codec_fingerprint}
        save_tensors(path, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | Path) -> SparseLikelihood:
        """Read a file of `save`.

        Raises:
            LassError: if the file is missing, truncated, or holds something else.
        """
        tensors, metadata = load_tensors(path, KIND)
        if metadata.get("kind") != KIND:
            raise LassError(f"{path} holds {metadata.get('kind')}, not a {KIND}.")
        num_codes, keys = metadata["num_codes"], tensors["keys"]
        pair, second = keys // num_codes, keys % num_codes
        coordinates = (pair % num_codes, second, pair // num_codes)
        return cls(num_codes, *coordinates, tensors["log_likelihood"], metadata["codec_fingerprint"])

    @property
    def device(self) -> torch.device:
        """Where the entries lie."""
        return self._first.device

    def to(self, device: torch.device | str) -> SparseLikelihood:
        """The same likelihood on another device."""
        if torch.device(device) == self.device:
            return self
        moved = object.__new__(SparseLikelihood)
        moved.__dict__ = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }
        return moved

    def is_counted(self, mixture_code: int) -> bool:
        """Whether any pair was ever seen to give this mixture code."""
        return self._starts[mixture_code] < self._starts[mixture_code + 1]

    def pairs(self, mixture_code: int) -> Pairs:
        """All pairs that were seen to give `mixture_code`: views into the table, not copies.

        Raises:
            LassError: if the code is outside 0…num_codes-1.
        """
        if not 0 <= mixture_code < self.num_codes:
            raise LassError(f"Mixture codes must be in 0…{self.num_codes - 1}, got {mixture_code}.")
        if not self.is_counted(mixture_code):
            code = torch.tensor([mixture_code], device=self.device)
            return Pairs(code, code, torch.zeros(1, device=self.device))
        part = slice(self._starts[mixture_code], self._starts[mixture_code + 1])
        return Pairs(self._first[part], self._second[part], self._log_likelihood[part])

    def at(self, mixture_codes: list[int], mixture_latents: Tensor | None = None) -> list[Pairs]:
        """See Likelihood; the latents are not looked at."""
        return [self.pairs(code) for code in mixture_codes]

    def contains(
        self, first: Int[Tensor, "*shape"], second: Int[Tensor, "*shape"], mixture: Int[Tensor, "*shape"]
    ) -> Bool[Tensor, "*shape"]:
        """Whether each triple was ever counted."""
        keys, position = self._look_up(first, second, mixture)
        return self._keys[position] == keys

    def log_likelihood(
        self, first: Int[Tensor, "*shape"], second: Int[Tensor, "*shape"], mixture: Int[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """log p(mixture | first, second) of each triple: −inf where it was never counted.

        For a mixture code that was never counted at all: 0 for the pair that stands in, else −inf.
        """
        keys, position = self._look_up(first, second, mixture)
        found = torch.where(self._keys[position] == keys, self._log_likelihood[position], -torch.inf)
        starts = torch.tensor(self._starts, device=self.device)
        stands_in = (starts[mixture] == starts[mixture + 1]) & (first == mixture) & (second == mixture)
        return torch.where(stands_in, 0.0, found)

    def _look_up(self, first: Tensor, second: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of the triples, and where they are or would be in the sorted table."""
        keys = (mixture * self.num_codes + first) * self.num_codes + second
        return keys, torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
