"""The `Separator`: codec, priors, likelihood, sampler, selection and refinement in one object that can be saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor, nn

from lass.artifacts import describe
from lass.codecs import AudioCodec, Codec, ImageCodec, LatentCodec, check_range, pad_to_codes
from lass.data.mixing import check_weights, mix
from lass.devices.precision import full_precision
from lass.errors import LassError, check_flag, check_number, distinct_names
from lass.hub import folder_of
from lass.hub.card import model_card
from lass.hub.registry import Kind
from lass.hub.repositories import uploading
from lass.likelihood import (
    CoverageLikelihood,
    Likelihood,
    MovableLikelihood,
    SavableLikelihood,
    needs_latents,
)
from lass.priors import Prior, from_reading_order, to_reading_order
from lass.samplers import Sampler, TopK
from lass.separation.algorithm import Candidates, Progress, separate_codes
from lass.separation.compatibility import check_parts
from lass.separation.entropy import entropy_by_position
from lass.separation.posterior_mean import latent_moments
from lass.separation.refinement import LatentDescent, PosteriorRefinement, Refinement
from lass.separation.result import SeparationResult
from lass.separation.selection import ClosestToMixture, Selection
from lass.separation.storage import MAX_SOURCES, fingerprints_of, load_parts, save_parts


class Separator(ModelHubMixin):
    """Separate mixtures of two or more sources with a codec, autoregressive priors over its codes and a likelihood.

    `separate` encodes the mixture, samples candidate code sequences (Algorithm 1), selects one candidate, refines its
    latents and decodes them.

    Args:
        codec: Codec between signals and codes.
        priors: One prior per source, or a single one for all sources.
        likelihood: p(mixture code | source codes), or a likelihood of the mixture's latents; more than two sources need
            an `AdditiveLikelihood` or a `ChainLikelihood`.
        sampler: Rule that chooses tuples of codes; default top-k with k = 32 and 512 candidates, as in the paper.
        selection: Rule that selects one candidate; default the one whose decoded mean is nearest to the mixture.
        refinement: Refinement of the selected candidate's latents; default 500 steps, as in the paper.
        likelihood_weight: Exponent of the likelihood, λ in the paper.
        memory_budget: Upper bound in bytes of the temporaries of the posterior at one position, see `separate_codes`.
        posterior_mean: Whether the refinement starts from the weighted mean of all candidates' latents instead of the
            latents of the selected candidate.
        source_names: Names of the sources if each has its own prior; used in file names and tables.
        num_sources: Number of sources that share the prior, if only one is given; default 2.
        mixing_weights: Weight of each source in the mixtures; None for their mean.

    Raises:
        LassError: if a prior or the likelihood was made for another codec, the likelihood needs latents that the codec
            does not provide, or a setting is out of range.

    Example:
        >>> separator = Separator.from_pretrained("runs/digits/separate/separator")  # doctest: +SKIP
        >>> separator.separate(mixture).estimates  # doctest: +SKIP

    Source: LASS (arXiv:2301.08562), Algorithm 1 and section "Post-inference Refinement".
    """

    _hub_mixin_config: dict[str, Any] = {}  # noqa: RUF012 (keeps the mixin from copying the constructor's arguments)

    def __init__(
        self,
        codec: Codec,
        priors: Prior | Sequence[Prior],
        likelihood: Likelihood,
        sampler: Sampler | None = None,
        selection: Selection | None = None,
        refinement: Refinement | None = None,
        likelihood_weight: float = 1.0,
        memory_budget: int = 2**30,
        posterior_mean: bool = False,
        source_names: Sequence[str] | None = None,
        num_sources: int | None = None,
        mixing_weights: Sequence[float] | None = None,
    ) -> None:
        self.codec = codec
        self.priors = _priors_of_sources(list(priors) if isinstance(priors, Sequence) else [priors], num_sources)
        self.mixing_weights = None if mixing_weights is None else list(mixing_weights)
        if self.mixing_weights is not None:
            check_weights(self.mixing_weights, len(self.priors))
        self.likelihood = likelihood
        self.sampler: Sampler = sampler or TopK()
        self.selection: Selection = selection or ClosestToMixture()
        self.refinement: Refinement = refinement or LatentDescent()
        self.likelihood_weight, self.memory_budget = likelihood_weight, memory_budget
        self.posterior_mean = posterior_mean
        check_number("likelihood_weight", likelihood_weight, at_least=0)
        check_number("memory_budget", memory_budget, at_least=1, whole=True)
        check_flag("posterior_mean", posterior_mean)
        self.source_names = None if source_names is None else distinct_names(source_names, self.num_sources)
        check_parts(codec, self.priors, likelihood)
        parameters = codec.parameters() if isinstance(codec, nn.Module) else iter(())
        self.device = next((parameter.device for parameter in parameters), torch.device("cpu"))
        for module in (codec, *self.priors):
            if isinstance(module, nn.Module):
                module.eval()

    @property
    def num_sources(self) -> int:
        """Number S of sources in a mixture."""
        return len(self.priors)

    def to(self, device: torch.device | str) -> Separator:
        """Move codec, priors and likelihood to a device and return self."""
        self.device = torch.device(device)
        # Lightning predicts in inference mode: parameters that are moved within it could not take part in autograd.
        with torch.inference_mode(False):
            for module in (self.codec, *self.priors):
                if isinstance(module, nn.Module):
                    module.to(device)
            if isinstance(self.likelihood, MovableLikelihood):
                self.likelihood = self.likelihood.to(device)
        return self

    def separate(
        self, mixture: Tensor, conditions: Tensor | None = None, seed: int = 0, progress: Progress = iter
    ) -> SeparationResult:
        """Separate one mixture.

        Args:
            mixture: (channels, *space), in the value range that the codec was trained on.
            conditions: (sources,) classes, for class-conditional priors.
            seed: Seed of all randomness; equal seeds give equal results.
            progress: Wrapper of the loop over code positions, for example `tqdm`.

        Raises:
            LassError: if the mixture's shape is not one of the codec's signals, its values are not finite or far
                outside the codec's range, or the estimates become NaN or infinite.
        """
        conditions = None if conditions is None else conditions[None]
        result = self.separate_batch(mixture[None], conditions, seed=seed, progress=progress)
        fields: dict[str, Any] = {name: None if x is None else x[0] for name, x in vars(result).items()}
        return SeparationResult(**fields)

    def separate_batch(
        self,
        mixtures: Tensor,
        conditions: Tensor | None = None,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        progress: Progress = iter,
    ) -> SeparationResult:
        """Separate a batch of mixtures; each result equals that of the mixture alone with its index, see
        `separate_codes`.

        Args:
            mixtures: (M, channels, *space).
            conditions: (M, sources) classes, for class-conditional priors.
            seed: Seed of all randomness; each mixture's stream is seeded by (seed, its index).
            indices: Index of each mixture, default 0…M-1.
            progress: See `separate`.

        Raises:
            LassError: as `separate`.
        """
        num_samples = mixtures.shape[-1]
        mixtures = pad_to_codes(self.codec, self.checked(mixtures))
        mixture_codes, mixture_latents = self.encode(mixtures)
        grid = tuple(mixture_codes.shape[1:])
        candidates = self.candidates(
            mixture_codes.flatten(1),
            None if mixture_latents is None else mixture_latents.flatten(2),
            conditions=None if conditions is None else conditions.to(self.device),
            seed=seed,
            indices=indices,
            progress=progress,
        )
        groups = self.exchangeable(conditions, len(mixtures))
        with full_precision(self.device):
            chosen = self.selection.select(candidates, mixtures, self.codec, grid, self.mixing_weights)
            codes, latents, variances = self.codes_and_latents(candidates, chosen, grid, groups)
            estimates = self._refine(latents, variances, mixtures)
        if not estimates.isfinite().all():
            raise LassError(
                f"The estimates became NaN or infinite: lower the step size of {type(self.refinement).__name__}, or "
                "use lass.separation.NoRefinement."
            )
        return SeparationResult(
            estimates[..., :num_samples],
            codes,
            candidates.scores,
            residual=(mixtures - mix(estimates, self.mixing_weights))[..., :num_samples],
            weights=candidates.weights,
            entropy=entropy_by_position(candidates, groups).unflatten(-1, grid),
            num_unseen_codes=self._num_unseen_codes(mixture_codes),
            log_evidence=candidates.log_evidence,
        )

    def checked(self, mixtures: Tensor) -> Tensor:
        """Validate mixtures and return them as float32 on the separator's device; errors as in `separate`."""
        if not mixtures.is_floating_point():
            raise LassError(f"The mixture holds {mixtures.dtype}: expected floating-point numbers.")
        mixtures = mixtures.to(self.device, torch.float32)
        if not mixtures.isfinite().all():
            raise LassError("The mixture holds NaN or infinite values: expected finite numbers only.")
        check_range(self.codec, mixtures)
        return mixtures

    @torch.no_grad()
    def encode(self, mixtures: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mixtures' codes, (M, *grid), and unquantised latents, (M, dim, *grid), both computed in float32.

        The latents are None if the likelihood does not need them.
        """
        with full_precision(self.device):
            codes = self.codec.encode(mixtures)
            if not needs_latents(self.likelihood) or not isinstance(self.codec, LatentCodec):
                return codes, None
            return codes, self.codec.encode_latents(mixtures)

    def candidates(self, mixture_codes: Tensor, mixture_latents: Tensor | None, **options: Any) -> Candidates:
        """Run Algorithm 1 with the parts and settings of this separator.

        Args:
            mixture_codes: (M, T).
            mixture_latents: (M, dim, T), for a likelihood of latents.
            options: Arguments of `separate_codes`: conditions, past, seed, indices, progress; another sampler.
        """
        prior = self.priors[0]  # all priors have the same reading order
        candidates = separate_codes(
            to_reading_order(mixture_codes, prior),
            self.priors,
            self.likelihood,
            options.pop("sampler", self.sampler),
            likelihood_weight=self.likelihood_weight,
            mixture_latents=None if mixture_latents is None else to_reading_order(mixture_latents, prior),
            mixing_weights=self.mixing_weights,
            memory_budget=self.memory_budget,
            **options,
        )
        return replace(candidates, codes=from_reading_order(candidates.codes, prior))

    @torch.no_grad()
    def codes_and_latents(
        self, candidates: Candidates, chosen: Tensor, grid: tuple[int, ...], groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the selected candidates' codes, (M, S, *grid), the initial latents of the refinement and their
        posterior variances, both (M, S, dim, *grid). The variances are 0 without `posterior_mean`.

        Args:
            candidates: Candidates of Algorithm 1.
            chosen: (M,), index of the selected candidate of each mixture.
            grid: Shape of the codes of one signal.
            groups: (M, S), see `exchangeable`.
        """
        codes = candidates.codes[torch.arange(len(chosen), device=chosen.device), chosen].unflatten(-1, grid)
        if self.posterior_mean:
            return codes, *latent_moments(candidates, chosen, self.codec, grid, groups)
        latents = self.codec.embed(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
        return codes, latents, torch.zeros_like(latents)

    def _refine(self, latents: Tensor, variances: Tensor, mixtures: Tensor) -> Tensor:
        if isinstance(self.refinement, PosteriorRefinement):
            return self.refinement.refine_posterior(latents, variances, mixtures, self.codec, self.mixing_weights)
        return self.refinement.refine(latents, mixtures, self.codec, self.mixing_weights)

    def exchangeable(self, conditions: Tensor | None, num_mixtures: int) -> Tensor:
        """Return the groups of exchangeable sources, (num_mixtures, sources) long: equal numbers within a group.

        Sources are exchangeable if they have the same prior, mixing weight and, if given, class. The number of a group
        is the position of its first source.

        Args:
            conditions: (num_mixtures, sources) classes, or None.
            num_mixtures: Number of mixtures.
        """
        weights = self.mixing_weights or [1.0] * len(self.priors)
        kinds = [(id(prior), weight) for prior, weight in zip(self.priors, weights, strict=True)]
        kind = torch.tensor([kinds.index(each) for each in kinds], device=self.device).expand(num_mixtures, -1)
        equal = kind[:, :, None] == kind[:, None]
        if conditions is not None:
            classes = conditions.to(self.device)
            equal = equal & (classes[:, :, None] == classes[:, None])
        return equal.long().argmax(2)

    def _num_unseen_codes(self, mixture_codes: Tensor) -> Tensor:
        likelihood = self.likelihood
        if not isinstance(likelihood, CoverageLikelihood):
            return torch.zeros(len(mixture_codes), dtype=torch.long)
        codes_by_mixture = mixture_codes.flatten(1).tolist()
        return torch.tensor([sum(not likelihood.is_counted(code) for code in codes) for codes in codes_by_mixture])

    def with_num_sources(self, num_sources: int) -> Separator:
        """Return a separator of the same parts and settings for another number of sources; self if it is the same.

        Raises:
            LassError: if the sources have different priors or mixing weights, or the likelihood does not serve this
                number of sources.
        """
        if num_sources == len(self.priors):
            return self
        if any(prior is not self.priors[0] for prior in self.priors) or self.mixing_weights:
            raise LassError(
                f"This separator is for {len(self.priors)} different sources: num_sources can only be changed where "
                "all sources share one prior, without mixing weights."
            )
        return Separator(
            self.codec,
            self.priors[0],
            self.likelihood,
            self.sampler,
            self.selection,
            self.refinement,
            self.likelihood_weight,
            self.memory_budget,
            self.posterior_mean,
            num_sources=num_sources,
        ).to(self.device)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings except weights, as JSON-serialisable values: sampler, selection, refinement, λ and
        posterior_mean.
        """
        parts = {name: describe(getattr(self, name)) for name in ("sampler", "selection", "refinement")}
        settings = {**parts, "likelihood_weight": self.likelihood_weight, "posterior_mean": self.posterior_mean}
        return settings if self.mixing_weights is None else {**settings, "mixing_weights": self.mixing_weights}

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the codec, the likelihood (which needs `state_dict`) and the prior of each source."""
        return fingerprints_of(self.codec, self.priors, cast(SavableLikelihood, self.likelihood))

    def save_pretrained(  # type: ignore[override]  # returns the folder
        self,
        folder: str | Path,
        *,
        config: None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Write the separator into a folder, from which `from_pretrained` rebuilds it, and return the folder.

        Args:
            folder: Folder that is created or whose files are replaced.
            config: Not used; part of the interface of huggingface_hub.
            model_card_kwargs: Arguments of `generate_model_card`, to write a model card; None for no card.

        Raises:
            LassError: if a part cannot be saved: codec and priors need `save_pretrained` (as from
                `lass.artifacts.Artifact`), the likelihood `save`; sampler, selection and refinement must be registered
                dataclasses.
        """
        facts = {"source_names": self.source_names, **self.settings}
        save_parts(Path(folder), self.codec, self.priors, self.likelihood, facts)
        if model_card_kwargs is not None:
            self.generate_model_card(**model_card_kwargs).save(Path(folder) / "README.md")
        return Path(folder)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # num_sources has a place
        cls,
        folder: str | Path,
        num_sources: int | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Separator:
        """Rebuild a separator from its folder, by its name or from the Hugging Face Hub, on the CPU.

        The folder is data: no code in it is executed, and no name in it is used as a path unchecked.

        Args:
            folder: Folder of `save_pretrained`, the name of a published model such as "mnist", or a repository of the
                Hub as "organisation/name"; a folder takes precedence.
            num_sources: Number of sources, if the folder has one prior that all sources share; default the number with
                which the separator was saved.
            revision: Branch, tag or commit of a repository of the Hub, default its main branch.
            cache_dir: Folder of downloads, default that of huggingface_hub.
            token: Access token of the Hub; default the one of `hf auth login`, False for none.
            local_files_only: Whether to use the Hub's cache only, without any request.
            force_download: Whether to download files that are in the cache.

        Raises:
            LassError: if a file is missing or damaged, the parts do not belong together, they are for another number of
                sources, or the separator cannot be found or downloaded (see `lass.hub.folder_of`).
        """
        found = folder_of(
            folder,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        separator = cls(**load_parts(found))
        return separator if num_sources is None else separator.with_num_sources(num_sources)

    def push_to_hub(  # type: ignore[override]  # facts of the model card instead of patterns of files
        self,
        repo_id: str,
        *,
        licence: str | None = None,
        training_data: str | None = None,
        results: str | Path | None = None,
        commit_message: str = "Separator saved by LASS",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Upload the separator with a model card to the Hugging Face Hub, and return the address of the commit.

        Args:
            repo_id: Repository, organisation/name; created if it does not exist.
            licence, training_data, results: Facts of the model card, see `generate_model_card`.
            commit_message: Message of the commit.
            private: Whether a new repository is private; default that of the organisation.
            token: Access token of the Hub; default the one of `hf auth login`.
            branch: Branch, default main.
            create_pr: Whether to open a pull request instead of a commit to the branch.

        Raises:
            LassError: if a part cannot be saved, or the Hub cannot be reached or refuses the upload.
        """
        facts = {"licence": licence, "training_data": training_data, "results": results}
        card: dict[str, Any] = {"repository": repo_id, **facts}
        self.generate_model_card(**card)  # so that results that cannot be read leave no empty repository
        with uploading(repo_id):
            return super().push_to_hub(
                repo_id,
                commit_message=commit_message,
                private=private,
                token=token,
                branch=branch,
                create_pr=create_pr,
                model_card_kwargs=card,
            )

    def generate_model_card(
        self,
        repository: str,
        licence: str | None = None,
        training_data: str | None = None,
        results: str | Path | None = None,
    ) -> ModelCard:
        """Return the model card: what the separator is for, how to use it, its scores, limits and licence.

        Args:
            repository: Repository on the Hub, organisation/name.
            licence: SPDX identifier of the licence of the weights, e.g. "MIT".
            training_data: Data that the models were trained on.
            results: Results folder of `lass predict`, whose scores are added.

        Raises:
            LassError: if the codec is neither for images nor for audio, or the results cannot be read.
        """
        kind: Kind
        signal: tuple[int, ...] | int
        if isinstance(self.codec, AudioCodec):
            kind, signal = "audio", self.codec.sample_rate
        elif isinstance(self.codec, ImageCodec):
            kind, signal = "image", self.codec.image_shape
        else:
            raise LassError(f"There is no model card for a {type(self.codec).__name__}: expected images or audio.")
        priors = {id(prior): type(prior).__name__ for prior in self.priors}.values()
        parts = {
            "codec": f"`{type(self.codec).__name__}`, {self.codec.num_codes} codes",
            "priors": f"{', '.join(f'`{name}`' for name in priors)}{'' if len(priors) > 1 else ', for all sources'}",
            "likelihood": f"`{type(self.likelihood).__name__}`, with the exponent {self.likelihood_weight}",
            **{name: f"`{getattr(self, name)}`" for name in ("sampler", "selection", "refinement")},
        }
        return model_card(
            repository,
            kind=kind,
            signal=signal,
            num_sources=self.num_sources,
            source_names=self.source_names,
            mixing_weights=self.mixing_weights,
            parts=parts,
            licence=licence,
            training_data=training_data,
            results=results,
        )


def _priors_of_sources(priors: list[Prior], num_sources: int | None) -> list[Prior]:
    """One prior per source."""
    if not priors:
        raise LassError("Expected one prior that all sources share, or one for each source, got none.")
    if num_sources is not None:
        check_number("num_sources", num_sources, at_least=1, at_most=MAX_SOURCES, whole=True)
    if len(priors) == 1:
        return priors * (2 if num_sources is None else num_sources)
    if num_sources not in (None, len(priors)):
        raise LassError(f"There are {len(priors)} priors for {num_sources} sources: expected one, or one per source.")
    return priors
