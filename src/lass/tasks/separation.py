"""Stage 4 for LASS: an evaluation of the separator that is made of the results of stages 1 to 3."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from lass.codecs import codebook_of, load_codec
from lass.errors import LassError, check_number
from lass.likelihood import load_likelihoods
from lass.priors import load_prior
from lass.samplers import Sampler
from lass.separation import Refinement, Selection, Separator
from lass.tasks.evaluation import OF_METHOD, Evaluation


class Separation(Evaluation):
    """Separates the mixtures of a data module with `lass predict`, and writes a results folder to `default_root_dir`.

    A run that was stopped is resumed at the first mixture without results.

    Args:
        codec: Folder of the codec.
        priors: Folder of one prior for all sources, or a list with one folder per source.
        likelihood: File of counts, of moments, or of a likelihood. More than two sources need an additive one, or a
            list of the files of counts of 2, 3, … sources, see `ChainLikelihood`.
        smoothing: Pseudo-count of the likelihood, see `SparseCounts.likelihood`.
        sampler: Sampler of the codes; null for TopK(512, 32).
        selection: Rule that selects one candidate; null for ClosestToMixture.
        posterior_mean: Whether the refinement starts from the mean latents of all candidates instead of the latents of
            the selected one.
        refinement: Post-inference refinement; null for LatentDescent, NoRefinement for none.
        likelihood_weight: Weight λ of the likelihood in Algorithm 1.
        conditional: Whether class-conditional priors are given the classes of the sources (weakly supervised
            separation).
        seed: Seed of the sampler.
        memory_budget: Bytes for temporary tensors, see `separate_codes`.
        overwrite: Whether to replace results in the folder that were made with other settings.
        fid: Whether to compute the Fréchet inception distance between estimates and sources, for images. It needs
            Inception's weights and 2,049 images; if either is missing, the run prints a message and omits it.
        inception_weights: File with these weights; default in torch's download cache.
        features: Folder of ImageFeatures, for a Fréchet distance on these features, which is not an FID.
        source_names: Names of the sources, if each has its own prior; scores are then also given per source.
        num_sources: Number S of sources in a mixture, if one prior is for all of them; null for 2. Must be the data's.

    The mixing weights are those of the data module.

    Raises:
        LassError: if a file or folder is missing or damaged, if they do not belong together, or if the data mixes
            another number of sources.

    Source: LASS (arXiv:2301.08562), Algorithm 1; PSNR protocol of Table 2.
    """

    saved_as: ClassVar[str] = "separator"

    def __init__(
        self,
        codec: str,
        priors: str | list[str],
        likelihood: str | list[str],
        sampler: Sampler | None = None,
        selection: Selection | None = None,
        refinement: Refinement | None = None,
        likelihood_weight: float = 1.0,
        conditional: bool = False,
        seed: int = 0,
        overwrite: bool = False,
        smoothing: float = 0.0,
        memory_budget: int = 2**30,
        posterior_mean: bool = False,
        fid: bool = False,
        inception_weights: str | None = None,
        features: str | None = None,
        source_names: list[str] | None = None,
        num_sources: int | None = None,
    ) -> None:
        check_number("seed", seed, at_least=0, whole=True)  # before models are read, which may take long
        if not priors:
            raise LassError("priors must name the folder of a prior, or one folder per source, not nothing.")
        tables = [likelihood] if isinstance(likelihood, str) else likelihood
        folders = [priors] if isinstance(priors, str) else priors
        loaded = {folder: load_prior(folder) for folder in folders}  # one folder named twice is one shared prior
        loaded_codec = load_codec(codec)
        separator = Separator(
            loaded_codec,
            [loaded[folder] for folder in folders],
            load_likelihoods(tables, smoothing, codebook_of(loaded_codec)),
            sampler,
            selection,
            refinement,
            likelihood_weight,
            memory_budget,
            posterior_mean,
            source_names,
            num_sources,
        )
        super().__init__(separator, conditional, seed, overwrite, fid, inception_weights, features, source_names)
        inputs = [("codec", codec), *(("likelihood", table) for table in tables)]
        self.paths = [*inputs, *self.paths, *(("prior", folder) for folder in loaded)]

    @property
    def separator(self) -> Separator:
        """The separator."""
        return cast(Separator, self.method)

    @property
    def title(self) -> str:
        """Name of the sampler."""
        return type(self.separator.sampler).__name__

    @property
    def settings(self) -> dict[str, Any]:
        """See `Evaluation`; without class and prefix, so that results folders of earlier versions are resumed."""
        return {name.removeprefix(OF_METHOD): value for name, value in super().settings.items() if name != "method"}

    def other_number(self, num_sources: int) -> str:
        """See `Evaluation`."""
        return (
            f"the separator is for {self.num_sources}: set --model.num_sources={num_sources}, or name one prior per "
            "source in --model.priors"
        )
