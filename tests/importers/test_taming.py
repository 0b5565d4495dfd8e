"""Tests of the importer of taming-transformers, against outputs of the original code (tests/golden/taming.py).

Codes are compared exactly: tests/golden/taming.py ensures that none is near a tie (1e-4 of the largest score; float32
rounds to 1e-7). Images and log-probabilities are of order 1, after some twenty layers: different CPUs or BLAS libraries
change them by about 1e-6 of the largest value, a wrong weight by more than 1e-2.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import pickle
import runpy
from collections import defaultdict, deque
from pathlib import Path

import pytest
import torch
import yaml
from dangerous import Dangerous
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from lass import LassError, Separator, read_image
from lass.artifacts import fingerprint
from lass.cli.main import main
from lass.codecs import VQGAN, load_codec
from lass.importers.taming import read_taming
from lass.likelihood import SparseCounts
from lass.priors import TransformerPrior, from_reading_order, load_prior, sample_codes, to_reading_order
from lass.samplers import Ancestral, Greedy
from lass.separation import HighestScore, NoRefinement

GOLDEN = Path(__file__).parent.parent / "golden" / "taming.safetensors"
MODELS = ("plain", "attention", "multipliers", "gumbel", "unconditional", "classes", "ldm", "ldm_without_attention")
formula = runpy.run_path(str(GOLDEN.with_suffix(".py")))["formula"]


def golden(model):
    """Outputs of the original code for a model, its configuration, and its weights."""
    with safe_open(str(GOLDEN), framework="pt") as file:
        described = json.loads(file.metadata()["models"])[model]
        kept = {name: file.get_tensor(name) for name in file.keys() if name.startswith(f"{model}.")}  # noqa: SIM118
    kept = {name.removeprefix(f"{model}."): tensor for name, tensor in kept.items()}
    weights = {name: formula(name, tuple(shape)) for name, shape in described["shapes"].items()}
    prefix = "first_stage_model." if "transformer_config" in described["config"]["params"] else ""
    weights |= {prefix + name: x for name, x in kept.items() if name.startswith("quantize.")}
    weights |= {name: torch.tensor(x) for name, x in described["indices"].items()}
    if prefix:
        weights["transformer.blocks.0.attn.mask"] = torch.ones(1, 1, 70, 70)
    weights[f"{prefix}loss.discriminator.main.0.weight"] = torch.zeros(1)
    weights["model_ema.num_updates"] = torch.tensor(0)  # moving averages, unused for codes in latent-diffusion
    weights["model_ema.encoderconv_inweight"] = torch.zeros(1)
    return kept, described["config"], weights


def write(folder, config, weights, **more):
    """Write a configuration and a checkpoint as published, with the extra entries of PyTorch Lightning."""
    paths = folder / "project.yaml", folder / "last.ckpt"
    paths[0].write_text(yaml.safe_dump({"model": {"base_learning_rate": 4.5e-6, **config}, "data": {}}))
    beside = {"callbacks": {ModelCheckpoint: {"best": 1.0}}, "hparams": argparse.Namespace(a=1), "epoch": 3, **more}
    beside |= {"seen": defaultdict(list, a=[1]), "last": deque([1.0, 2.0])}
    torch.save({"state_dict": weights, **beside}, paths[1])
    return paths


@pytest.mark.parametrize("model", MODELS)
def test_codes_and_images_are_those_of_the_original_code(model, tmp_path):
    kept, config, weights = golden(model)
    codec, _ = read_taming(*write(tmp_path, config, weights))
    assert kept["codes"].unique().numel() == 20  # all 20 codes occur, so the comparison is meaningful
    assert torch.equal(codec.encode(kept["signal"]), kept["codes"].long())
    with torch.no_grad():
        decoded = codec.decode(kept["codes"].long())
    torch.testing.assert_close(decoded, kept["decoded"], rtol=0, atol=1e-4 * kept["decoded"].abs().max().item())


@pytest.mark.parametrize("model", ["unconditional", "classes"])
def test_probabilities_are_those_of_the_original_code(model, tmp_path):
    kept, config, weights = golden(model)
    _, prior = read_taming(*write(tmp_path, config, weights))
    condition = torch.tensor([1, 4]) if model == "classes" else None
    codes = to_reading_order(kept["codes"].long().flatten(1), prior)
    assert torch.equal(codes, kept["read"].long())
    assert (kept["read"].flatten(1) != kept["codes"].flatten(1)).any() == (model == "classes")  # read in a spiral
    state, past = prior.start(2, condition), None
    with torch.no_grad():
        for position in range(codes.shape[1]):
            log_prior = prior.step(state, past)
            torch.testing.assert_close(log_prior, kept["log_probabilities"][:, position], rtol=0, atol=1e-4)
            past = codes[:, position]


def test_codes_that_were_never_used_are_left_out(tmp_path):
    """With `quantize.used`, codes index the list of used codebook entries."""
    kept, config, weights = golden("plain")
    used = torch.arange(3, 20)
    codec, _ = read_taming(*write(tmp_path, config, {**weights, "quantize.used": used}))
    assert codec.num_codes == 17
    is_used = kept["codes"] >= 3
    assert torch.equal(codec.encode(kept["signal"])[is_used], kept["codes"].long()[is_used] - 3)


def test_import_from_the_shell_needs_nothing_of_the_original_afterwards(tmp_path, capsys):
    kept, config, weights = golden("classes")
    paths = write(tmp_path, config, weights)
    arguments = ["import", "taming", "--config", str(paths[0]), "--checkpoint", str(paths[1])]
    main([*arguments, "--dtype", "bfloat16", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "20 codes, 8×8 for images of 3×16×16" in said
    assert "for 5 classes, 0 M parameters in bfloat16" in said
    for path in paths:
        path.unlink()
    codec, prior = load_codec(tmp_path / "out" / "codec"), load_prior(tmp_path / "out" / "prior")
    assert {parameter.dtype for parameter in prior.parameters()} == {torch.bfloat16}
    assert torch.equal(codec.encode(kept["signal"]), kept["codes"].long())
    with torch.no_grad():
        log_prior = prior.step(prior.start(2, torch.tensor([1, 4])), None)
    assert log_prior.dtype == torch.float32
    torch.testing.assert_close(log_prior, kept["log_probabilities"][:, 0], rtol=0, atol=0.1)  # bfloat16 has 8 bits
    with pytest.raises(SystemExit, match="is there already"):
        main([*arguments, "--out", str(tmp_path / "out")])
    # The fingerprint of the codec matches the prior, and both work in a separator.
    counts = SparseCounts(20, codec_fingerprint=prior.codec_fingerprint)
    counts.add(*torch.randint(20, (3, 5000), generator=torch.Generator().manual_seed(0)))
    separator = Separator(codec, prior, counts.likelihood(), Greedy(), HighestScore(), NoRefinement())
    result = separator.separate(kept["signal"].mean(0), torch.tensor([1, 4]))
    assert result.estimates.shape == (2, 3, 16, 16)


def test_a_checkpoint_without_a_prior_says_so(tmp_path, capsys):
    _, config, weights = golden("plain")
    paths = write(tmp_path, config, weights)
    main(["import", "taming", "--config", str(paths[0]), "--checkpoint", str(paths[1]), "--out", str(tmp_path / "out")])
    assert "The checkpoint has no prior" in capsys.readouterr().out


def changed(config, *path, to):
    """Copy of a configuration with the value at `path` replaced."""
    config = json.loads(json.dumps(config))
    *folders, last = path
    inner = config
    for name in folders:
        inner = inner[name]
    inner[last] = to
    return config


def test_files_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    _, config, weights = golden("classes")
    first = ("params", "first_stage_config", "params", "ddconfig")
    names = list(weights)
    cases = [
        ("is missing", config, {name: weights[name] for name in names if "mid.block_1.conv1" not in name}),
        ("instead of", changed(config, *first, "ch", to=64), weights),
        (
            r"last\.weight is 8×32×3×3 instead of 16×32×3×3.* and \d more",
            changed(config, *first, "z_channels", to=16),
            weights,
        ),
        ("is missing.*and .* more", changed(config, *first, "num_res_blocks", to=3), weights),
        ("is not expected", changed(config, "params", "transformer_config", "params", "n_layer", to=1), weights),
        ("room for 9 codes", changed(config, "params", "transformer_config", "params", "block_size", to=9), weights),
        ("looks ahead", changed(config, "params", "transformer_config", "params", "n_unmasked", to=9), weights),
        (
            "is conditioned on __is_first_stage__: expected classes",
            changed(config, "params", "cond_stage_config", to="__is_first_stage__"),
            weights,
        ),
        (
            "has no codebook|quantize.embedding.weight",
            config,
            {n: w for n, w in weights.items() if "quantize" not in n},
        ),
        ("describes a Other", changed(config, "target", to="their.Other"), weights),
        ("double_z", changed(config, *first, "double_z", to=True), weights),
        (r"has no model\.params", {"target": config["target"]}, weights),
        ("weights under 'state_dict'", config, {"a": 1}),
    ]
    for sentence, config_here, weights_here in cases:
        with pytest.raises(LassError, match=sentence) as error:
            read_taming(*write(tmp_path, config_here, weights_here))
        assert "\n" not in str(error.value), sentence
    with pytest.raises(LassError, match="There is no configuration at"):
        read_taming(tmp_path / "none.yaml", tmp_path / "last.ckpt")
    with pytest.raises(LassError, match="There is no checkpoint at"):
        read_taming(tmp_path / "project.yaml", tmp_path / "none.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:300])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "page.ckpt").write_text("error code: 1020")  # error page of a server
    for name in ("cut", "empty", "page"):
        with pytest.raises(LassError, match="damaged"):
            read_taming(tmp_path / "project.yaml", tmp_path / f"{name}.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    _, config, weights = golden("plain")
    paths = write(tmp_path, config, weights, extra=Dangerous(tmp_path / "harm"))
    read_taming(*paths)
    paths[1].write_bytes(pickle.dumps({"state_dict": Dangerous(tmp_path / "harm")}))
    with pytest.raises(LassError, match="are no checkpoint of PyTorch"):
        read_taming(*paths)
    assert not (tmp_path / "harm").exists()


def test_safetensors_are_read_too(tmp_path):
    kept, config, weights = golden("classes")
    paths = write(tmp_path, config, weights)
    save_file(weights, tmp_path / "model.safetensors")
    codec, prior = read_taming(paths[0], tmp_path / "model.safetensors")
    assert torch.equal(codec.encode(kept["signal"]), kept["codes"].long())
    assert fingerprint(prior) == fingerprint(read_taming(*paths)[1])


def test_the_codec_of_a_diffusion_model_is_read(tmp_path):
    kept, config, weights = golden("ldm")
    weights = {f"first_stage_model.{name}": tensor for name, tensor in weights.items()}
    weights["model.diffusion_model.out.weight"] = torch.zeros(1)
    settings = {"first_stage_config": config, "unet_config": {"target": "their.UNet"}}
    config = {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": settings}
    codec, prior = read_taming(*write(tmp_path, config, weights))
    assert prior is None
    assert torch.equal(codec.encode(kept["signal"]), kept["codes"].long())


LAYERS = ("params", "first_stage_config", "params", "ddconfig")
TRANSFORMER = ("params", "transformer_config", "params")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*LAYERS, "resolution"), "16"),
        ((*LAYERS, "resolution"), 16.0),
        ((*LAYERS, "resolution"), "${model.params.size}"),
        ((*LAYERS, "ch_mult"), ["1", 1.0]),
        ((*LAYERS, "ch_mult"), "${model.params.multipliers}"),
        ((*LAYERS, "double_z"), "False"),
        (LAYERS, "${model.params.layers}"),
        ((*TRANSFORMER, "n_layer"), " 2 "),
        (("params", "unconditional"), "false"),
    ],
)
def test_odd_values_that_have_a_clear_meaning_are_read(tmp_path, path, value):
    kept, config, weights = golden("classes")
    layers = config["params"]["first_stage_config"]["params"]["ddconfig"]
    config["params"] |= {"size": 16, "multipliers": [1, 1], "layers": dict(layers)}
    codec, prior = read_taming(*write(tmp_path, changed(config, *path, to=value), weights))
    assert torch.equal(codec.encode(kept["signal"]), kept["codes"].long())
    assert prior.num_classes == 5


HUGE = 10**30


@pytest.mark.parametrize(
    ("sentence", "path", "value"),
    [
        (r"model.params.first_stage_config.params.ddconfig must be a mapping.*None", LAYERS, None),
        ("ddconfig must be a mapping of names to values, not a list", LAYERS, [1, 2]),
        ("ddconfig must be a mapping of names to values, not 'x'", LAYERS, "x"),
        ("resolution must be an integer from 1 to 1048576, not '256x256'", (*LAYERS, "resolution"), "256x256"),
        ("resolution must be an integer from 1 to 1048576, not 0.5", (*LAYERS, "resolution"), 0.5),
        ("resolution must be an integer from 1 to 1048576, not -16", (*LAYERS, "resolution"), -16),
        ("resolution must be an integer from 1 to 1048576, not True", (*LAYERS, "resolution"), True),
        ("resolution must be an integer from 1 to 1048576, not inf", (*LAYERS, "resolution"), float("inf")),
        ("resolution must be an integer from 1 to 1048576, not a longer number", (*LAYERS, "resolution"), HUGE),
        ("resolution must be an integer from 1 to 1048576, not a list", (*LAYERS, "resolution"), [16, 16]),
        ("height and width must be an integer, at least 1, at most 16384", (*LAYERS, "resolution"), 2**20),
        ("resolution must be a value, or .*full name of another key", (*LAYERS, "resolution"), "${.size}"),
        ("resolution must be a value, or .*full name of another key", (*LAYERS, "resolution"), "${oc.env:HOME}"),
        ("resolution must be a value, or .*full name", (*LAYERS, "resolution"), "${model.params.loop}"),
        ("ch_mult must be a list of at most 12 integers, not '1,1'", (*LAYERS, "ch_mult"), "1,1"),
        ("ch_mult must be a list of at most 12 integers, not a list", (*LAYERS, "ch_mult"), [1] * 40),
        ("ch_mult must be an integer from 1 to 1048576, not 'a'", (*LAYERS, "ch_mult"), ["a"]),
        ("ch_mult must be an integer", (*LAYERS, "ch_mult"), [[1]]),
        ("image_shape|belong together|VQGAN", (*LAYERS, "ch_mult"), []),
        ("multiple of 32", (*LAYERS, "ch"), 5),
        ("instead of", (*LAYERS, "ch"), 2**20),
        ("num_res_blocks must be an integer from 1 to 100", (*LAYERS, "num_res_blocks"), 10**9),
        ("attn_resolutions must be a list", (*LAYERS, "attn_resolutions"), 16),
        ("attn_type must be vanilla or none, not 'linear'", (*LAYERS, "attn_type"), "linear"),
        ("attn_type must be vanilla or none, not 'linear'", (*LAYERS, "use_linear_attn"), True),
        ("attention.* is not expected", (*LAYERS, "attn_type"), "none"),
        ("double_z must be true or false, not 'maybe'", (*LAYERS, "double_z"), "maybe"),
        ("sets tanh_out", (*LAYERS, "tanh_out"), True),
        ("target must be the name of a class, not 3", ("target",), 3),
        ("n_layer must be an integer from 1 to 2, not 1000000000", (*TRANSFORMER, "n_layer"), 10**9),
        ("n_head must be an integer from 1", (*TRANSFORMER, "n_head"), 0),
        ("multiple of num_heads", (*TRANSFORMER, "n_head"), 3),
        ("block_size must be an integer", (*TRANSFORMER, "block_size"), None),
        ("n_unmasked must be an integer from 0", (*TRANSFORMER, "n_unmasked"), "some"),
        ("has 23 codes, but .* has 1000000 classes", ("params", "cond_stage_config", "params", "n_classes"), 10**6),
        ("n_classes must be an integer from 1", ("params", "cond_stage_config", "params", "n_classes"), 0),
        ("cond_stage_config.params must be a mapping", ("params", "cond_stage_config", "params"), None),
        ("conditioned on None", ("params", "cond_stage_config"), None),
        ("first_stage_config must be a mapping", ("params", "first_stage_config"), None),
        ("transformer_config has|has no .*transformer_config.params", TRANSFORMER[:-1], {}),
    ],
)
def test_other_odd_values_are_named_in_one_sentence(tmp_path, sentence, path, value):
    """Sizes are checked against the weights before anything of the claimed size is allocated."""
    _, config, weights = golden("classes")
    config["params"]["loop"] = "${model.params.loop}"
    with pytest.raises(LassError, match=sentence) as error:
        read_taming(*write(tmp_path, changed(config, *path, to=value), weights))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


ALIASES = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12))


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("has no model", b""),
        ("has no model", b"- a\n- b\n"),
        ("has no model", b"just text"),
        ("model must be a mapping", b"model: null"),
        ("no single YAML document", b"model: {}\n---\nmodel: {}\n"),
        ("no single YAML document", "model: {target: Größe}".encode("latin-1")),
        ("no single YAML document", b"\x00\x01\x02"),
        ("no single YAML document", b"model: [" * 50_000),
        ("no single YAML document", b"model: !!python/object/apply:os.system ['true']"),
        ("no single YAML document", b"model: !!timestamp soon"),
        ("no single YAML document", b"model: !!int ''"),
        ("no single YAML document", b"model: " + b"9" * 5000),
        ("no single YAML document", b"model: *unknown"),
        ("must be a mapping of names to values, not a list", ALIASES.encode() + b"model: *a12"),
        ("is too large for a configuration", b"#" * 2_000_000),
        ("has no model.target", "model: {params: {}}".encode("utf-16")),
        ("has no model.target", b"\xef\xbb\xbfmodel: {params: {}}"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, sentence, text):
    _, config, weights = golden("plain")
    paths = write(tmp_path, config, weights)
    paths[0].write_bytes(text)
    with pytest.raises(LassError, match=sentence) as error:
        read_taming(*paths)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("transformer.pos_emb", torch.zeros(3)),
        ("transformer.tok_emb.weight", torch.zeros(())),
        ("transformer.blocks.0.attn.query.weight", torch.zeros(3, 3, 3)),
        ("first_stage_model.quantize.embedding.weight", torch.zeros(())),
        ("first_stage_model.quantize.used", torch.tensor([10**9])),
        ("permuter.forward_shuffle_idx", torch.zeros(())),
        ("permuter.forward_shuffle_idx", torch.tensor([1, 1])),
        ("first_stage_model.encoder.conv_in.weight", torch.full((32, 3, 3, 3), torch.nan)),
    ],
)
def test_weights_of_other_shapes_are_refused(tmp_path, name, tensor):
    _, config, weights = golden("classes")
    with pytest.raises(LassError) as error:
        read_taming(*write(tmp_path, config, {**weights, name: tensor}))
    assert "\n" not in str(error.value)


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    """On a full disk, and on Ctrl-C while the prior is written."""
    _, config, weights = golden("classes")
    paths = write(tmp_path, config, weights)
    arguments = ["import", "taming", "--config", str(paths[0]), "--checkpoint", str(paths[1])]
    arguments += ["--out", str(tmp_path / "new" / "folder" / "out")]
    before = set(tmp_path.rglob("*"))
    save = TransformerPrior.save_pretrained

    def fails(error):
        def write_some(prior, folder):
            save(prior, folder)
            raise error

        return write_some

    for error, expected in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SystemExit),
        (SafetensorError("No space left on device"), SystemExit),
        (KeyboardInterrupt(), BaseException),
    ):
        monkeypatch.setattr(TransformerPrior, "save_pretrained", fails(error))
        with pytest.raises(expected) as raised:
            main(arguments)
        if expected is SystemExit:
            assert "cannot be written" in str(raised.value)
            assert "No space left on device" in str(raised.value)
            assert "\n" not in str(raised.value)
        assert set(tmp_path.rglob("*")) == before
    monkeypatch.setattr(TransformerPrior, "save_pretrained", save)
    main(arguments)
    (tmp_path / "file").touch()
    for out in ("file", "file/below", "a" * 300):
        with pytest.raises(SystemExit, match=r"cannot be written|is there already") as raised:
            main([*arguments[:-1], str(tmp_path / out)])
        assert "\n" not in str(raised.value)


def test_orders_come_back():
    order = [2, 0, 3, 1]
    prior = TransformerPrior(5, 4, 8, 1, 1, order=order)
    codes = torch.tensor([[10, 11, 12, 13]])
    assert to_reading_order(codes, prior).tolist() == [[12, 10, 13, 11]]
    assert torch.equal(from_reading_order(to_reading_order(codes, prior), prior), codes)
    with pytest.raises(LassError, match="each of 0…3 once"):
        TransformerPrior(5, 4, 8, 1, 1, order=[0, 1, 2, 2])


def test_a_separator_walks_in_the_order_of_its_priors():
    """A prior in column order gives for a transposed mixture the transposed result of the prior in row order."""
    torch.manual_seed(0)
    rows = TransformerPrior(6, 16, 16, 2, 2).eval()
    for parameter in rows.parameters():
        parameter.data *= 3  # makes codes depend on preceding codes
    columns = TransformerPrior(6, 16, 16, 2, 2, order=torch.arange(16).view(4, 4).T.flatten().tolist()).eval()
    columns.load_state_dict(rows.state_dict())
    codec = VQGAN((3, 8, 8), 6, 4, 32, (1, 1), 1, ()).eval()
    counts = SparseCounts(6)
    counts.add(*torch.randint(6, (3, 500), generator=torch.Generator().manual_seed(0)))
    parts = (counts.likelihood(), Ancestral(8), HighestScore(), NoRefinement())
    mixture_codes = torch.randint(6, (1, 4, 4))
    in_rows = Separator(codec, rows, *parts).candidates(mixture_codes.flatten(1), None).codes.unflatten(-1, (4, 4))
    turned = Separator(codec, columns, *parts).candidates(mixture_codes.mT.flatten(1), None).codes.unflatten(-1, (4, 4))
    assert torch.equal(in_rows, turned.mT)
    assert not torch.equal(in_rows, in_rows.mT)
    with pytest.raises(LassError, match="two of the same order"):
        Separator(codec, [rows, columns], *parts)


def test_samples_of_an_ordered_prior_are_as_long_as_its_grid():
    prior = TransformerPrior(5, 4, 8, 1, 1, order=[2, 0, 3, 1]).eval()
    assert sample_codes(prior, 3, 4).shape == (3, 4)


@pytest.fixture
def photographs(tmp_path):
    """Folder with one class per sample photograph of scikit-learn, each with crops of 256×256 pixels."""
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        for left in range(0, 384, 64):
            Image.fromarray(photograph[85:341, left : left + 256]).save(folder / f"{left}.png")
    return tmp_path / "photographs"


@pytest.mark.slow
def test_from_import_to_figure_on_photographs(photographs, tmp_path, monkeypatch, repository):
    """Small version of the published experiment: import, count, separate by class; then one file from the shell."""
    monkeypatch.chdir(tmp_path)
    _, config, weights = golden("large")
    codec, _ = read_taming(*write(tmp_path, config, weights))
    images = [read_image(path, codec.image_shape) for path in sorted(photographs.rglob("*.png"))[::5]]
    with torch.no_grad():  # codebook from latents, so that codes vary over positions
        latents = codec.encode_latents(torch.stack(images)).movedim(1, -1).flatten(0, 2)
    chosen = latents[torch.randperm(len(latents), generator=torch.Generator().manual_seed(0))[:20]]
    weights["first_stage_model.quantize.embedding.weight"] = chosen
    paths = write(tmp_path, config, weights)
    models = Path("runs/imagenet/taming")
    main(["import", "taming", "--config", str(paths[0]), "--checkpoint", str(paths[1]), "--out", str(models)])

    experiment = repository / "experiments" / "imagenet"
    data = [f"--data.root={photographs}", "--data.num_workers=0", "--data.num_test=4", "--data.num_validation=2"]
    quiet = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    once = ["--trainer.max_epochs=1", "--data.batch_size=3"]
    main(["fit", "-c", str(experiment / "likelihood.yaml"), *data, *quiet, *once])
    counts = SparseCounts.load("runs/imagenet/likelihood/counts.safetensors")
    assert counts.num_triples == 3 * 256  # one epoch of three pairs of photographs
    sampler = ["--model.sampler.init_args.num_candidates=2"]
    main(["predict", "-c", str(experiment / "separate.yaml"), *data, *quiet, *sampler, "--data.num_mixtures=2"])
    results = Path("runs/imagenet/separate")
    with Image.open(results / "separations.png") as figure:
        assert min(figure.size) > 256
    assert len((results / "results.csv").read_text().splitlines()) == 3
    assert {path.name for path in results.iterdir()} >= {"summary.json", "separator"}

    mixture = torch.stack(images[:2]).mean(0)
    Image.fromarray((255 * mixture.movedim(0, -1)).byte().numpy()).save("mixture.png")
    main(["separate", "mixture.png", "--separator", str(results / "separator"), "--classes", "0", "1", "--out", "out"])
    for name in ("mixture-1.png", "mixture-2.png"):
        with Image.open(Path("out") / name) as estimate:
            assert estimate.size == (256, 256)
