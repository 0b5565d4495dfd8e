"""Likelihood of the log powers of a mixture: the powers of its two sources add up."""

# K codes per group, G groups, d channels of the latents

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lass.artifacts import Origin, fingerprint, load_tensors, save_tensors
from lass.errors import LassError, check_sizes
from lass.likelihood.protocol import Pairs

LOG_SUM = "log-sum likelihood"
MAX_TABLE = 2**31  # bytes of the means of all pairs


class LogSumLikelihood:
    """log p(mixture's log powers | codes of two sources) up to a constant, for a codec of log powers.

    The latents of such a codec are c = log(power + ε), see `lass.codecs.SpectrogramCodec`. The expected power of the
    mixture w₁ x¹ + w₂ x² of independent signals is w₁² P₁ + w₂² P₂, so its latents v are near
    μ = log(w₁² (exp c₁ − ε) + w₂² (exp c₂ − ε) + ε) + b, with the codebook vectors c₁, c₂ and a mean deviation b. With
    the whitening W of the deviations, the log likelihood is −(ν + d') / 2 · log(1 + |W (v − μ)|² / ν): the shape of
    Student's t, with the degrees of freedom ν and the effective dimension d'. b, W and d' differ between the groups of
    codes; sources and mixture have codes of the same group at every position.

    The means of the K² pairs of each group are computed at the first use and kept.

    Args:
        num_codes: Number of codes of all groups, G K.
        table: Tensors, see `state_dict`.
        codec_fingerprint: Fingerprint of the codec that the codes belong to.

    Raises:
        LassError: if the means of all pairs need more than 2 GiB.

    Source: our own, in place of the counted likelihood of LASS (arXiv:2301.08562), Eq. 4. Sums of powers as a model of
    mixtures: Gales and Young 1996, "Robust continuous speech recognition using parallel model combination".
    """

    needs_latents = True

    def __init__(self, num_codes: int, table: dict[str, Tensor], codec_fingerprint: str | None = None) -> None:
        self.num_codes, self.codec_fingerprint, self._table = num_codes, codec_fingerprint, table
        self._origin: Origin | None = None
        self.num_groups, self._dim = table["bias"].shape
        self._size = num_codes // self.num_groups
        if 4 * self.num_groups * self._size**2 * self._dim > MAX_TABLE:
            raise LassError(
                f"The means of all pairs of {self._size} codes in {self.num_groups} groups need more than "
                f"{MAX_TABLE / 2**30:g} GiB: use fewer codes in more groups."
            )
        first, second = table["weights"].tolist()
        self.symmetric = first == second
        self._means: dict[int, tuple[Tensor, Tensor]] = {}  # by group: whitened means, and their squared norms
        pairs = torch.arange(self._size**2, device=self.device)
        self._first, self._second = pairs // self._size, pairs % self._size

    def at(self, mixture_codes: list[int], mixture_latents: Tensor | None = None) -> list[Pairs]:
        """All pairs of the group that each mixture's code belongs to; see `PairLikelihood`.

        Raises:
            LassError: if no latents are given.
        """
        if mixture_latents is None:
            raise LassError("This likelihood needs the mixture's latents: pass mixture_latents to separate_codes.")
        groups = [code // self._size for code in mixture_codes]
        rows: dict[int, Tensor] = {}
        for group in set(groups):
            own = torch.tensor([number for number, each in enumerate(groups) if each == group], device=self.device)
            log_likelihood = self._log_likelihood(mixture_latents[own].float(), group)
            rows |= dict(zip(own.tolist(), log_likelihood, strict=True))
        return [
            Pairs(self._first + group * self._size, self._second + group * self._size, rows[number])
            for number, group in enumerate(groups)
        ]

    def _log_likelihood(self, latents: Float[Tensor, "M dim"], group: int) -> Float[Tensor, "M pairs"]:
        means, squared = self._whitened_means(group)
        whitened = latents @ self._table["whitening"][group]
        distances = squared - 2 * whitened @ means.T + whitened.square().sum(1, keepdim=True)
        freedom, dim = self._table["tail"][group].tolist()
        return distances.clamp_(min=0).div_(freedom).log1p_().mul_(-(freedom + dim) / 2)

    def _whitened_means(self, group: int) -> tuple[Tensor, Tensor]:
        if group not in self._means:
            vectors = self._table["codebook"][group * self._size : (group + 1) * self._size]
            pairs = (vectors[self._first], vectors[self._second])
            means = log_sum(pairs, self._table["weights"].tolist(), self._table["floor"].item())
            means = (means + self._table["bias"][group]) @ self._table["whitening"][group]
            self._means[group] = means, means.square().sum(1)
        return self._means[group]

    @property
    def device(self) -> torch.device:
        """Device of the table."""
        return self._table["bias"].device

    def to(self, device: torch.device | str) -> LogSumLikelihood:
        """Return the likelihood on another device; self if it is there already."""
        if torch.device(device) == self.device:
            return self
        table = {name: tensor.to(device) for name, tensor in self._table.items()}
        return LogSumLikelihood(self.num_codes, table, self.codec_fingerprint)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the table.

        `codebook` (G K, d): log powers of each code; `bias` (G, d): mean deviation b; `whitening` (G, d, d): matrix by
        which deviations are multiplied from the right; `tail` (G, 2): degrees of freedom and effective dimension;
        `weights` (2,): mixing weights; `floor` (): ε.
        """
        return dict(self._table)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, or a hard link to the file that this likelihood was loaded from; see `Origin`."""
        if self._origin is not None and self._origin.link(Path(path), fingerprint(self._table)):
            return
        facts = {name: getattr(self, name) for name in ("num_codes", "codec_fingerprint")}
        save_tensors(path, self.state_dict(), {"kind": LOG_SUM, **facts})

    @classmethod
    def load(cls, path: str | Path) -> LogSumLikelihood:
        """Read a file written by `save`.

        Raises:
            LassError: if the file is missing, truncated, or not a file of a log-sum likelihood.
        """
        table, metadata = load_tensors(path, LOG_SUM)
        num_codes: Any = metadata.get("num_codes")
        if metadata.get("kind") == LOG_SUM:
            check_sizes(2**21, num_codes=num_codes)
        if metadata.get("kind") != LOG_SUM or not _is_table(table, num_codes):
            raise LassError(f"{path} holds no {LOG_SUM} of this version of lass: make it again.")
        likelihood = cls(num_codes, table, metadata.get("codec_fingerprint"))
        likelihood._origin = Origin.of(path, str(metadata.get("checksum")))
        return likelihood


def log_sum(
    latents: Sequence[Float[Tensor, "*shape"]], weights: Sequence[float], floor: float
) -> Float[Tensor, "*shape"]:
    """Log power of a mixture from log powers log(P + floor) of its sources: log(Σₛ wₛ² Pₛ + floor)."""
    total = torch.zeros_like(latents[0])
    for source, weight in zip(latents, weights, strict=True):
        total += weight**2 * (source.exp() - floor).clamp(min=0)
    return (total + floor).log()


def _is_table(table: dict[str, Tensor], num_codes: int) -> bool:
    """Whether tensors from a file have the names, shapes and ranges of `LogSumLikelihood.state_dict`."""
    if table.keys() != {"codebook", "bias", "whitening", "tail", "weights", "floor"} or table["bias"].dim() != 2:
        return False
    groups, dim = table["bias"].shape
    shapes = {
        "codebook": (num_codes, dim),
        "bias": (groups, dim),
        "whitening": (groups, dim, dim),
        "tail": (groups, 2),
        "weights": (2,),
        "floor": (),
    }
    if {name: tuple(x.shape) for name, x in table.items()} != shapes or not groups or num_codes % groups:
        return False
    if not all(x.dtype == torch.float32 and x.isfinite().all() for x in table.values()):
        return False
    return all(bool((table[name] > 0).all()) for name in ("tail", "weights", "floor"))
