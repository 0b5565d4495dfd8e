"""YAML configs of all experiments, and invalid commands."""

from __future__ import annotations

import csv
import functools
import importlib
import sys

import pytest
import torch
from chain import SMALL
from conftest import REPOSITORY
from pytorch_lightning.cli import LightningCLI
from tiny_datasets import (
    write_tiny_band,
    write_tiny_celeba,
    write_tiny_celebahq,
    write_tiny_imagenet,
    write_tiny_mnist,
)

from lass import SparseCounts
from lass.artifacts import fingerprint
from lass.cli.main import main
from lass.cli.stages import LassCLI
from lass.codecs import ImageVQVAE, SpectrogramCodec, codebook_of, load_codec
from lass.likelihood import AdditiveMoments, LatentMoments, LogSumMoments
from lass.metrics import ImageFeatures
from lass.priors import TransformerPrior
from lass.separation import LatentDescent


def configs():
    return sorted(path for path in REPOSITORY.glob("experiments/*/*.yaml") if path.stem in {*SMALL, "features"})


class ParseOnly(LassCLI):
    """Command line that is only parsed, without running a stage; checkpoints need not exist."""

    def parse_arguments(self, parser, args):
        LightningCLI.parse_arguments(self, parser, args)

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


@functools.cache
def stages_parser():
    """Return the parser of all stages, which takes longer to make than to use."""
    return ParseOnly(["fit", "-c", str(configs()[0])]).parser


@functools.cache
def parsed(*words):
    """Return the config of a command line; parsing fails for a misspelt option or class."""
    return stages_parser().parse_args(list(words))[words[0]]


@pytest.mark.parametrize("path", configs(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_config_is_parsed_whole(path):
    command = "predict" if path.stem == "separate" else "fit"
    config = parsed(command, "-c", str(path))
    assert config.trainer.default_root_dir == f"runs/{path.parent.name}/{path.stem}"
    logger = config.trainer.logger.init_args
    assert (logger.group, logger.job_type) == (path.parent.name, path.stem)
    assert logger.save_dir == config.trainer.default_root_dir


def overlays():
    """Configs that are laid over separate.yaml, for more than two sources."""
    return sorted(path for path in REPOSITORY.glob("experiments/*/*.yaml") if path.stem in ("three", "four"))


@pytest.mark.parametrize("path", overlays(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_overlays_set_all_that_depends_on_the_number_of_sources(path):
    num_sources = {"three": 3, "four": 4}[path.stem]
    config = parsed("predict", "-c", str(path.with_name("separate.yaml")), "-c", str(path))
    model, data = config.model.init_args, config.data.init_args
    assert model.likelihood.endswith("additive.safetensors")
    assert config.trainer.default_root_dir == config.trainer.logger.init_args.save_dir
    assert config.trainer.default_root_dir == f"runs/{path.parent.name}/{path.stem}"
    if path.parent.name == "mnist":
        assert model.num_sources == data.num_sources == num_sources
        return
    assert data.classes == model.source_names
    assert model.priors == [f"runs/slakh/prior-{name}/prior" for name in data.classes]
    assert len(data.classes) == num_sources
    likelihood = parsed("fit", "-c", str(path.with_name("likelihood.yaml"))).model.init_args
    assert likelihood.additive
    codec = made_by(parsed("fit", "-c", str(path.with_name("vqvae.yaml"))).model.init_args.codec)
    num_positions = -(-round(data.seconds * codec.sample_rate) // codec.hop)
    assert f'num_positions={num_positions}"' in path.with_name("four.yaml").read_text()


@pytest.mark.parametrize("dataset", ["mnist", "slakh"])
def test_the_authors_models_are_laid_over_separate_yaml(dataset):
    path = REPOSITORY / "experiments" / dataset / "authors.yaml"
    config = parsed("predict", "-c", str(path.with_name("separate.yaml")), "-c", str(path))
    model, models = config.model.init_args, f"runs/{dataset}/authors"
    priors = [model.priors] if isinstance(model.priors, str) else model.priors
    assert all(name.startswith(f"{models}/") for name in (model.codec, model.likelihood, *priors))
    assert config.trainer.default_root_dir == config.trainer.logger.init_args.save_dir == f"{models}-separate"
    if dataset == "slakh":
        assert round(config.data.init_args.seconds * config.data.init_args.sample_rate) == 1024 * 128


def method_configs():
    return sorted(REPOSITORY.glob("experiments/*/methods/*.yaml"))


def layered(path):
    """Words of the command line for a method, whose config is laid over separate.yaml."""
    return ["predict", "-c", str(path.parents[1] / "separate.yaml"), "-c", str(path)]


@pytest.mark.parametrize("path", method_configs(), ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_method_is_parsed_with_a_folder_and_a_job_type_of_its_own(path):
    config = parsed(*layered(path))
    assert config.model.class_path == "lass.tasks.Evaluation"
    assert config.trainer.default_root_dir == f"runs/{path.parts[-3]}/{path.stem}"
    logger = config.trainer.logger.init_args
    assert (logger.group, logger.job_type) == (path.parts[-3], path.stem)
    assert logger.save_dir == config.trainer.default_root_dir
    separate = parsed("predict", "-c", str(path.parents[1] / "separate.yaml"))
    assert config.data == separate.data
    for name in ("source_names", "fid", "features"):
        assert config.model.init_args[name] == separate.model.init_args[name]


@pytest.mark.parametrize("method", ["conv-tasnet", "demucs"])
def test_a_network_is_trained_for_the_data_on_which_it_is_evaluated(method):
    folder = REPOSITORY / "experiments/slakh"
    config = parsed("fit", "-c", str(folder / f"{method}.yaml"))
    evaluation = parsed(*layered(folder / f"methods/{method}.yaml"))
    root, logger = config.trainer.default_root_dir, config.trainer.logger.init_args
    assert root == logger.save_dir == f"runs/slakh/{logger.job_type}" == f"runs/slakh/supervised-{method}"
    assert evaluation.model.init_args.method.init_args.folder == f"{root}/network"
    assert evaluation.trainer.default_root_dir != root
    assert config.trainer.max_steps % config.trainer.val_check_interval == 0
    data, network = config.data.init_args, config.model.init_args.network.init_args
    assert data.tuples
    assert list(data.classes) == list(evaluation.data.init_args.classes) == evaluation.model.init_args.source_names
    assert network.classes == list(data.classes)
    assert network.sample_rate == data.sample_rate == evaluation.data.init_args.sample_rate
    for seconds in (data.seconds, evaluation.data.init_args.seconds):
        assert network.num_samples == round(seconds * network.sample_rate)
    assert network.rescale == (config.model.init_args.loss == "si_sdr")


SCORE_METHODS = {
    "basis": ["--model.method.num_levels=2", "--model.method.steps_per_level=1"],
    "isdm": ["--model.method.num_steps=2"],
}


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("experiments/*/score.yaml")), ids=lambda path: path.parts[-2])
def test_denoisers_are_trained_for_the_mixtures_on_which_they_are_used(path, tmp_path, monkeypatch):
    """One batch of training, and one mixture with both methods and an untrained denoiser of the training's config."""
    dataset, config = path.parts[-2], parsed("fit", "-c", str(path))
    assert config.trainer.default_root_dir == config.trainer.logger.init_args.save_dir == f"runs/{dataset}/score"
    assert config.trainer.max_steps % config.trainer.val_check_interval == 0
    denoiser = made_by(config.model.init_args.denoiser)
    evaluations = {name: layered(path.with_name("methods") / f"{name}.yaml") for name in SCORE_METHODS}
    for words in evaluations.values():
        evaluated = parsed(*words)
        model = evaluated.model.init_args
        method = model.method.init_args
        names = [f"score-{name}" for name in model.source_names] if model.source_names else ["score"]
        folders = [f"runs/{dataset}/{name}/denoiser" for name in names]
        assert method.denoisers == (folders if model.source_names else folders[0])
        excess = 1 + min(getattr(method, "churn", 0) / getattr(method, "num_steps", 1), 2**0.5 - 1)
        assert denoiser.sigma_min <= method.sigma_min < method.sigma_max * excess <= denoiser.sigma_max
        if "seconds" in evaluated.data.init_args:
            assert denoiser.shape[-1] == round(evaluated.data.init_args.seconds * denoiser.sample_rate)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    WRITERS[dataset](tmp_path)
    ImageFeatures(num_features=3, width=8).save_pretrained(f"pretrained/{dataset}/features")
    options = ["--data.batch_size=2", "--trainer.enable_progress_bar=false"]
    split = ["--data.num_validation=10"] if dataset == "mnist" else []
    size = {"widths": [8], "num_blocks": [1]}
    smaller = [f"--model.denoiser.init_args.{name}={value}" for name, value in size.items()]
    main(["fit", "-c", str(path), "--trainer.fast_dev_run=true", *options, *split, *smaller])
    for folder in folders:
        type(denoiser)(**{**denoiser.config, **size}).save_pretrained(folder)
    options += ["--data.num_mixtures=1", "--trainer.logger=false"]
    options += ["--data.seconds=0.5"] if dataset.startswith("slakh") else ["--data.mixtures=null"]
    for name, words in evaluations.items():
        main([*words, *options, *SCORE_METHODS[name]])
        assert (tmp_path / f"runs/{dataset}/{name}/results.csv").read_text().count("\n") > 1


TOP_K = ("lass.samplers.TopK", {"num_candidates": 512, "k": 32})
BEAMS = ("lass.samplers.BeamSearch", {"num_candidates": 100})


@pytest.mark.parametrize(
    ("dataset", "sampler", "weight", "refined", "selection"),
    [
        ("digits", TOP_K, 1.0, True, None),
        ("mnist", TOP_K, 1.0, True, None),
        ("celeba", TOP_K, 3.0, False, None),
        ("slakh", BEAMS, 1.0, False, "lass.separation.HighestScore"),
    ],
)
def test_the_papers_recipe_leaves_nothing_of_ours(repository, dataset, sampler, weight, refined, selection):
    """paper.yaml overrides all settings of separate.yaml that differ from the paper's."""
    folder = repository / "experiments" / dataset
    config = parsed("predict", "-c", str(folder / "separate.yaml"), "-c", str(folder / "paper.yaml"))
    model = config.model.init_args
    if refined:
        assert vars(model.refinement.init_args) == vars(LatentDescent())
    else:
        assert model.refinement.class_path == "lass.separation.NoRefinement"
    used = vars(model.sampler.init_args)
    assert (model.sampler.class_path, {name: used[name] for name in sampler[1]}) == sampler
    assert (model.posterior_mean, model.likelihood_weight) == (False, weight)
    assert getattr(model.selection, "class_path", None) == selection
    assert model.likelihood.endswith("counts.safetensors")
    assert config.trainer.default_root_dir == config.trainer.logger.init_args.save_dir == f"runs/{dataset}/paper"


def made_by(config):
    """Instantiate the class of a `class_path` with its `init_args`."""
    module, name = config.class_path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**vars(config.init_args))


#: Writers of a tiny dataset of each experiment; scikit-learn has the digits.
WRITERS = {
    "mnist": write_tiny_mnist,
    "celeba": write_tiny_celeba,
    "slakh": write_tiny_band,
    "slakh_spectrogram": write_tiny_band,
    "celebahq": write_tiny_celebahq,
    "imagenet": write_tiny_imagenet,
    "digits": id,
}


@pytest.mark.parametrize("dataset", sorted({path.parts[-3] for path in method_configs()}))
def test_the_average_is_evaluated_without_any_model(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    WRITERS[dataset](tmp_path)
    ImageFeatures(num_features=3, width=8).save_pretrained(f"pretrained/{dataset}/features")
    options = ["--data.seconds=0.5"] if dataset.startswith("slakh") else ["--data.mixtures=null"]
    options += ["--data.num_mixtures=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    main([*layered(REPOSITORY / "experiments" / dataset / "methods/average.yaml"), *options])
    with open(f"runs/{dataset}/average/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    score = "sdr_db" if dataset == "slakh" else "psnr_db"
    assert [row[score] for row in rows] == [row[f"average_{score}"] for row in rows]
    assert len(rows) == 2


@pytest.mark.parametrize("path", configs() + overlays(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_tiny_twin_of_every_stage_runs(path, tmp_path, monkeypatch):
    """Run one batch with each config, on untrained artefacts in the folders of the earlier stages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    dataset = path.parent.name
    WRITERS[dataset](tmp_path)
    ImageFeatures(num_features=3, width=8).save_pretrained(f"pretrained/{dataset}/features")
    separating = path.stem == "separate" or path in overlays()
    layers = ["-c", str(path.with_name("separate.yaml"))] if separating else ["-c", str(path)]
    layers += ["-c", str(path)] if path in overlays() else []
    wanted = layers if separating else ["-c", str(path.with_name("separate.yaml"))]
    separate = parsed("predict", *wanted).model.init_args
    if dataset == "slakh":  # the separation below is of shorter chunks than those that the prior is trained on
        chunks = [parsed("fit", "-c", str(path.with_name("prior.yaml"))).data.init_args.sources.init_args.seconds]
        chunks += [parsed("predict", "-c", str(path.with_name("separate.yaml"))).data.init_args.seconds]
        assert chunks[0] == chunks[1]
    published = not path.with_name("vqvae.yaml").exists()
    if published:  # imported models are replaced by smaller ones
        codec = ImageVQVAE((3, 16, 16), num_codes=32, width=8)
        prior = TransformerPrior(32, 16, dim=8, num_layers=1, num_classes=3 * separate.conditional)
    else:
        codec, prior = (
            made_by(parsed("fit", "-c", str(path.with_name(f"{stage}.yaml"))).model.init_args[part])
            for stage, part in {"vqvae": "codec", "prior": "prior"}.items()
        )
    if isinstance(codec, SpectrogramCodec):
        codec = SpectrogramCodec(**{**codec.config, "codes_per_band": 16})
        codec.codebook.normal_(generator=torch.Generator().manual_seed(0))
        prior = TransformerPrior(**{**prior.config, "num_codes": codec.num_codes})
    elif codec.num_codes > 512:  # a likelihood of latents of so many codes takes a minute
        settings = {**codec.config, "num_codes": 64}, {**prior.config, "num_codes": 64}
        codec, prior = (type(part)(**config) for part, config in zip((codec, prior), settings, strict=True))
    codec.save_pretrained(separate.codec)
    prior.codec_fingerprint = fingerprint(codec)
    for folder in [separate.priors] if isinstance(separate.priors, str) else separate.priors:
        prior.save_pretrained(folder)
    counts = SparseCounts(codec.num_codes, codec_fingerprint=fingerprint(codec))
    counts.add(*torch.randint(codec.num_codes, (3, 5000), generator=torch.Generator().manual_seed(0)))
    counts.save(f"runs/{dataset}/likelihood/counts.safetensors")
    if separate.likelihood.endswith("latents.safetensors"):
        moments = LatentMoments(*codebook_of(codec).shape, codec_fingerprint=fingerprint(codec))
        moments.add(*torch.zeros(2, 1, dtype=torch.long), codebook_of(codec)[:1])
        moments.save(separate.likelihood)
    if separate.likelihood.endswith("additive.safetensors"):
        additive, noise = AdditiveMoments(*codebook_of(codec).shape), torch.Generator().manual_seed(0)
        additive.codec_fingerprint = fingerprint(codec)
        drawn = torch.randint(codec.num_codes, (100, 2), generator=noise)
        errors = 0.1 * torch.randn((100, 2, codebook_of(codec).shape[1]), generator=noise)
        latents = codebook_of(codec)[drawn] + errors
        additive.add(drawn, errors, latents, latents.mean(1) + errors[:, 0])
        additive.save(separate.likelihood)
    if separate.likelihood.endswith("log_sum.safetensors"):
        drawn = torch.arange(codec.num_codes)
        vectors = codebook_of(codec)[drawn]
        sums = LogSumMoments(*vectors.shape, codec.block, codec.floor, codec_fingerprint=fingerprint(codec))
        sums.add(drawn, torch.stack([vectors, vectors], 1), vectors)
        sums.save(separate.likelihood)

    sources = "data.sources.init_args" if path.stem == "prior" else "data"
    options = ["--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false", "--data.batch_size=2"]
    options += [f"--{sources}.num_validation=10"] if dataset in ("mnist", "digits") else []
    options += ["--data.size=16", "--data.num_workers=0"] if published else []
    options += [f"--model.prior.init_args.num_codes={codec.num_codes}"] if path.stem == "prior" else []
    if path.stem == "vqvae" and isinstance(codec, SpectrogramCodec):
        options += ["--model.codec.init_args.codes_per_band=16"]
    if separating:
        options += ["--data.seconds=0.5"] if dataset.startswith("slakh") else ["--data.mixtures=null"]
        options += ["--data.num_mixtures=2", "--model.sampler.init_args.num_candidates=4"]
        options += ["--model.refinement=lass.separation.NoRefinement"] if dataset != "slakh_spectrogram" else []
    elif published:
        options += ["--data.num_validation=2"]
    main(["predict" if separating else "fit", *layers, *options])
    if separating:
        assert (tmp_path / f"runs/{dataset}/{path.stem}/results.csv").read_text().count("\n") > 1
    assert fingerprint(load_codec(separate.codec)) == fingerprint(codec)  # not replaced


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "--model=lass.tasks.Nothing"], "lass.tasks.Nothing"),
        (["fit", "-c", "experiments/nothing/prior.yaml"], "experiments/nothing/prior.yaml"),
        (["train", "-c", "x.yaml"], "There is no command 'train'"),
    ],
)
def test_a_mistyped_command_fails_with_its_reason_and_without_warnings(monkeypatch, recwarn, arguments, words):
    """Of the warnings, those are tested that Python shows by default, so none about deprecations."""
    monkeypatch.setattr(sys, "argv", ["lass", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert words in stopped.value.code  # a text: Python prints it, without a traceback, and the exit status is 1
    assert not [w for w in recwarn if not issubclass(w.category, DeprecationWarning | PendingDeprecationWarning)]
