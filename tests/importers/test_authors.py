"""Tests of the importers of the authors' models, against outputs of the authors' code (tests/golden/authors.py).

Codes are compared exactly: tests/golden/authors.py ensures that none is near a tie (1e-4 of the largest score; float32
rounds to 1e-7). Images and log probabilities are of order 1, and compared up to 1e-5.
"""

from __future__ import annotations

import io
import json
import runpy
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dangerous import Dangerous
from safetensors import safe_open
from safetensors.torch import load_file

from lass import LassError, Separator
from lass.artifacts import fingerprint
from lass.cli.main import main
from lass.codecs import load_codec
from lass.importers.authors_images import read_gpt2, read_vqvae
from lass.importers.jukebox import read_jukebox_prior
from lass.importers.sums import read_sums
from lass.likelihood import load_likelihood
from lass.priors import load_prior
from lass.samplers import BeamSearch, Choice, TopK
from lass.separation import LatentDescent, separate_codes

GOLDEN = Path(__file__).parent.parent / "golden" / "authors.safetensors"
MADE = runpy.run_path(str(GOLDEN.with_suffix(".py")))
CODES, POSITIONS, AUDIO = MADE["CODES"], MADE["POSITIONS"], MADE["AUDIO"]


def golden(name):
    """Value that the authors' code gave."""
    with safe_open(str(GOLDEN), framework="pt") as file:
        return file.get_tensor(name)


def weights_of(model):
    """State dictionary of a model of the authors' code."""
    with safe_open(str(GOLDEN), framework="pt") as file:
        weights = MADE["state"](json.loads(file.metadata()["shapes"])[model])
    if model == "vqvae":
        weights["codeBook.embedding.weight"] = golden("codebook")
    return weights


def saved(path, content):
    """Path of a file of torch.save."""
    torch.save(content, path)
    return path


def saved_sums(path, coordinates, counts, shape=(CODES,) * 3, **more):
    """Path of a file in the format of sparse.save_npz."""
    arrays = {"data": counts, "shape": shape, "fill_value": np.int64(0), "coords": coordinates, **more}
    np.savez_compressed(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


@pytest.fixture
def images():
    return MADE["uniform"](f"signal {int(golden('seed'))}", (3, 1, 28, 28))


@pytest.fixture
def codec(tmp_path):
    return read_vqvae(saved(tmp_path / "256-sigmoid-big.pt", weights_of("vqvae")))


@pytest.fixture
def prior(tmp_path):
    return read_gpt2(saved(tmp_path / "unconditioned.pt", weights_of("prior")))


@pytest.fixture
def sums(tmp_path):
    return read_sums(saved(tmp_path / "sums.pt", MADE["dense_sums"](CODES)))


def test_codes_and_images_are_those_of_the_authors_code(codec, images):
    codes = golden("codes").long()
    assert codes.unique().numel() == CODES  # all codes occur, so the comparison is meaningful
    assert torch.equal(codec.encode(images), codes)
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(codes[:2]), golden("decoded"), rtol=0, atol=1e-5)
    assert golden("decoded").std() > 0.05


def log_priors(prior, sequences):
    """Log probabilities of all codes at every position of given sequences, (batch, time, K)."""
    state, past, given = prior.start(len(sequences)), None, []
    for codes in sequences.T:
        given.append(prior.step(state, past))
        past = codes
    return torch.stack(given, 1)


def test_probabilities_are_those_of_the_authors_code(prior):
    expected = golden("log_prior")
    given = log_priors(prior, MADE["integers"]("sequences", 2 * POSITIONS, CODES).view(2, POSITIONS))
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
    assert (expected[0, 1:] - expected[1, 1:]).abs().amax(-1).min() > 0.1  # every position depends on the past
    assert prior.start_token == 0


def test_likelihood_is_that_of_the_authors_code(sums):
    likelihood = sums.likelihood()
    found = likelihood.pairs(5)
    assert torch.equal(torch.stack([found.first, found.second]), golden("pairs").long())
    torch.testing.assert_close(found.log_likelihood, golden("log_likelihood"), rtol=0, atol=1e-6)
    assert found.log_likelihood.unique().numel() > 10
    assert torch.equal(sums.nonzeros_per_mixture_code, golden("num_pairs"))
    first, second, *_ = sums.triples()
    assert (first < second).sum() != (first > second).sum()  # not symmetric


@dataclass
class Replay:
    """Sampler that repeats given choices and records the k highest posteriors of each position."""

    codes: torch.Tensor  # (N, S, T)
    k: int
    top: list[torch.Tensor] = field(default_factory=list)

    @property
    def num_candidates(self):
        return len(self.codes)

    def step(self, posterior, scores, generator):
        chosen = self.codes[:, :, len(self.top)]
        best = posterior.best(1000)  # all pairs
        parents = torch.arange(self.num_candidates).clamp(max=posterior.num_candidates - 1)
        self.top.append(best.log_posterior[0, parents, : self.k])
        is_chosen = (best.codes[0, parents] == chosen[:, None]).all(-1) & best.log_posterior[0, parents].isfinite()
        added = best.log_posterior[0, parents].masked_fill(~is_chosen, -torch.inf).amax(1)
        return Choice(parents[None], chosen[None], scores[:, parents] + added)


def test_posterior_of_top_k_is_that_of_the_authors_code(prior, sums):
    """A separation with the authors' choices has their posterior at every position, and their choices are among the k
    most probable.
    """
    replay = Replay(golden("separated").long(), MADE["K"])
    mixture_codes = MADE["integers"]("mixture", POSITIONS, CODES)[None]
    given = separate_codes(mixture_codes, [prior, prior], sums.likelihood(), replay)
    torch.testing.assert_close(torch.stack(replay.top), golden("top"), rtol=0, atol=1e-5)
    torch.testing.assert_close(given.scores[0], golden("scores").sort(descending=True).values, rtol=0, atol=1e-3)
    assert len({tuple(codes.flatten().tolist()) for codes in golden("separated")}) == MADE["CANDIDATES"]


def test_refinement_is_that_of_the_authors_code(codec, images):
    """With one step less, as the authors return the decoding before their last step."""
    latents = codec.embed(golden("codes")[:2].long())[None]
    refinement = LatentDescent(MADE["STEPS"] - 1, learning_rate=0.1, halve_every=100, proximal_weight=1e-3)
    given = refinement.refine(latents, images[2:], codec)
    torch.testing.assert_close(given[0], golden("refined"), rtol=0, atol=1e-3)
    assert (given[0] - golden("decoded")).abs().max() > 0.1


@pytest.mark.parametrize("order", MADE["ORDERS"])
def test_probabilities_of_audio_are_those_of_the_authors_code(tmp_path, order):
    prior = read_jukebox_prior(saved(tmp_path / "prior.pth.tar", of_audio(order)))
    sequences = MADE["integers"]("sequences", 2 * 32, AUDIO["bins"]).view(2, 32)
    expected = golden(f"audio.log_prior.{order}")
    given = log_priors(prior, sequences)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
    assert (expected[0, 1:] - expected[1, 1:]).abs().amax(-1).min() > 0.1  # every position depends on the past
    if order == MADE["ORDERS"][-1]:  # their separation computes in half precision
        torch.testing.assert_close(given, golden("audio.log_prior.half"), rtol=0, atol=0.1)


def of_audio(order, **hps):
    """Checkpoint of a prior as Jukebox's code writes it."""
    settings = {"heads": AUDIO["heads"], "blocks": AUDIO["blocks"], "attn_order": order, **hps}
    weights = {f"module.prior.{name}": tensor for name, tensor in weights_of(f"audio {order}").items()}
    return {"model": weights, "hps": settings, "opt": None, "step": 1}


def test_sequences_of_audio_are_selected(tmp_path):
    """Probabilities after a selection are those of the selected sequences, also where they share a prefix."""
    prior = read_jukebox_prior(saved(tmp_path / "prior.pth.tar", of_audio(9)))
    sequences = torch.randint(AUDIO["bins"], (3, 32), generator=torch.Generator().manual_seed(0))
    state, past = prior.start(1), None
    for position in range(32):
        parents = torch.tensor([[0], [0, 0, 0], [2, 0, 1]][min(position, 2)] if position < 20 else [1, 1, 1])
        if position:
            state = prior.select(state, parents)
            sequences = sequences[parents] if position > 1 else sequences
            sequences[:, position - 1] = past = torch.arange(3) * position % AUDIO["bins"]
        given = prior.step(state, past)
    expected = log_priors(prior, sequences)[:, -1]
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
    assert state.cache.num_shared >= 16


def symmetric_sums(path):
    """The sums of audio of tests/golden/authors.py: both orders of every triple."""
    triples = MADE["triples"](CODES)
    both = torch.cat([triples, triples[[1, 0, 2]]], 1)
    coordinates, counts = both.unique(dim=1, return_counts=True)
    return saved_sums(path, coordinates, counts)


def test_likelihood_of_audio_is_that_of_the_authors_code(tmp_path):
    counts = read_sums(symmetric_sums(tmp_path / "sums.npz"))
    found = counts.likelihood().pairs(5)
    assert torch.equal(torch.stack([found.first, found.second]), golden("audio.pairs").long())
    expected = golden("audio.log_likelihood")
    torch.testing.assert_close(MADE["WEIGHT"] * found.log_likelihood, expected, rtol=0, atol=1e-5)
    assert counts.num_triples == 2 * MADE["triples"](CODES).shape[1]


def test_from_files_to_a_separation(tmp_path, capsys):
    """Files of the published sizes, with the masks that older versions of transformers stored."""
    weights = {name: weights_of(f"published {name}") for name in ("vqvae", "prior")}
    for layer in range(3):
        weights["prior"][f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 49, 49, dtype=torch.uint8).tril()
        weights["prior"][f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    files = {name: saved(tmp_path / f"{name}.pt", content) for name, content in weights.items()}
    files["sums"] = saved(tmp_path / "sums.pt", MADE["dense_sums"](256))
    out = tmp_path / "runs" / "authors"
    options = [f"--{name}={path}" for name, path in files.items()]
    main(["import", "authors", *options, "--out", str(out)])
    said = capsys.readouterr().out
    assert "256 codes, 7×7 for images of 1×28×28" in said
    assert "unconditional, 1 M parameters" in said
    for path in files.values():
        path.unlink()
    separator = Separator.from_pretrained(out)
    assert separator.settings["sampler"] == {"class": "TopK", "num_candidates": 512, "k": 32, "temperature": 1.0}
    assert (
        separator.priors[0].codec_fingerprint
        == separator.likelihood.codec_fingerprint
        == fingerprint(load_codec(out / "codec"))
    )
    assert separator.priors[0].num_positions == POSITIONS
    few = Separator(
        separator.codec,
        load_prior(out / "prior"),
        load_likelihood(out / "likelihood.safetensors"),
        TopK(2, 32),
        refinement=LatentDescent(2),
    )
    assert few.separate(MADE["uniform"]("mixture", (1, 28, 28))).estimates.shape == (2, 1, 28, 28)


@pytest.mark.parametrize("part", ["vqvae", "prior", "sums"])
def test_each_file_can_be_imported_alone(tmp_path, part):
    content = MADE["dense_sums"](CODES) if part == "sums" else weights_of(part)
    main(["import", "authors", f"--{part}", str(saved(tmp_path / "file.pt", content)), "--out", str(tmp_path / "out")])
    loaders = {"vqvae": ("codec", load_codec), "prior": ("prior", load_prior)}
    name, load = loaders.get(part, ("likelihood.safetensors", load_likelihood))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert load(tmp_path / "out" / name).num_codes == CODES


def test_audio_is_imported_too(tmp_path, capsys):
    """A VQ-VAE of Jukebox, one prior per source, and sums."""
    jukebox = load_file(GOLDEN.with_name("jukebox.safetensors"))
    vqvae = {name.removeprefix("weights."): x for name, x in jukebox.items() if name.startswith("weights.")}
    num_codes = len(vqvae["bottleneck.level_blocks.2.k"])
    checkpoint = of_audio(2)
    for name in ("x_emb", "x_out"):
        checkpoint["model"][f"module.prior.{name}.weight"] = checkpoint["model"][f"module.prior.{name}.weight"][
            :num_codes
        ]
    codes = torch.randint(num_codes, (3, 900), generator=torch.Generator().manual_seed(0))
    coordinates, counts = codes.unique(dim=1, return_counts=True)
    files = {
        "vqvae": saved(tmp_path / "vqvae.pth.tar", {"model": vqvae}),
        "prior": saved(tmp_path / "prior.pth.tar", checkpoint),
        "sums": saved_sums(tmp_path / "sums.npz", coordinates, counts, (num_codes,) * 3),
    }
    options = ["--vqvae", files["vqvae"], "--prior", files["prior"], files["prior"], "--sums", files["sums"]]
    main(["import", "authors", *map(str, options), "--out", str(tmp_path / "out")])
    assert "44100 Hz, one code for every 128 samples" in capsys.readouterr().out
    separator = Separator.from_pretrained(tmp_path / "out")
    assert (separator.likelihood_weight, separator.sampler) == (3.0, BeamSearch(10))
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"prior_0", "prior_1"}
    assert separator.separate(jukebox["signal"][0] / 4).estimates.shape == (2, *jukebox["signal"][0].shape)


@pytest.mark.parametrize(
    ("read", "model", "name", "tensor", "sentence"),
    [
        (read_vqvae, "vqvae", "encoder.3.weight", None, r"has no encoder\.3\.weight"),
        (read_vqvae, "vqvae", "encoder.4.block.2.running_var", None, "has no encoder.4.block.2.running_var"),
        (read_vqvae, "vqvae", "encoder.3.weight", torch.zeros(3), "instead of 16×16×4×4"),
        (read_vqvae, "vqvae", "encoder.1.running_mean", torch.zeros(3), r"other shapes than .*\(encoder\.1\)"),
        (read_vqvae, "vqvae", "codeBook.embedding.weight", torch.zeros(3), "of 1 dimensions: expected 2"),
        (read_vqvae, "vqvae", "codeBook.embedding.weight", torch.zeros(1, 60_000), "instead of"),  # 50 GB of layers
        (read_vqvae, "vqvae", "decoder.6.bias", torch.tensor([torch.nan]), "NaN or infinite"),
        (read_gpt2, "prior", "transformer.wte.weight", None, r"has no transformer\.wte\.weight"),
        (read_gpt2, "prior", "transformer.h.1.ln_1.weight", None, "is missing"),
        (read_gpt2, "prior", "transformer.h.1.ln_1.weight", torch.zeros(3), "is 3 instead of 16"),
        (read_gpt2, "prior", "transformer.h.7.ln_1.weight", torch.zeros(16), "is missing"),
        (read_gpt2, "prior", "transformer.other", torch.zeros(16), "is not expected"),
        (read_gpt2, "prior", "transformer.wpe.weight", torch.zeros(49), "of 1 dimensions: expected 2"),
        (read_gpt2, "prior", "lm_head.weight", torch.zeros(CODES, 16), "an lm_head that differs from wte"),
        (read_gpt2, "prior", "transformer.wte.weight", torch.zeros(1, 1_000_001), "lm_head|2 heads do not divide"),
        (read_jukebox_prior, "audio 2", "x_emb.weight", None, "has no matrix x_emb.weight"),
        (read_jukebox_prior, "audio 2", "x_out.weight", torch.zeros(20, 16), "an x_out that differs from x_emb"),
        (read_jukebox_prior, "audio 2", "pos_emb.pos_emb", torch.zeros(30, 16), "30 positions in 4 blocks"),
        (read_jukebox_prior, "audio 2", "transformer._attn_mods.0.attn.c_proj.w", torch.zeros(0, 3), "has no matrix"),
        (read_jukebox_prior, "audio 2", "transformer._attn_mods.1.ln_0.bias", None, "is missing"),
        (read_jukebox_prior, "audio 2", "y_cond.weight", torch.zeros(1), "is not expected"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_sentence(tmp_path, read, model, name, tensor, sentence):
    checkpoint = of_audio(2) if model.startswith("audio") else weights_of(model)
    weights, name = (checkpoint["model"], f"module.prior.{name}") if "hps" in checkpoint else (checkpoint, name)
    weights.pop(name, None)
    if tensor is not None:
        weights[name] = tensor
    with pytest.raises(LassError, match=sentence) as error:
        read(saved(tmp_path / "model.pt", checkpoint))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("heads", 0),
        ("heads", "2"),
        ("heads", 3),
        ("blocks", 10**9),
        ("blocks", None),
        ("attn_order", 7),
        ("attn_order", 1.0),
    ],
)
def test_settings_of_a_prior_for_audio_are_checked(tmp_path, name, value):
    with pytest.raises(LassError, match=f"{name}|the attention 7|multiple of num_heads") as error:
        read_jukebox_prior(saved(tmp_path / "prior.pth.tar", of_audio(2, **{name: value})))
    assert "\n" not in str(error.value)


def test_a_conditioned_prior_for_audio_is_refused(tmp_path):
    checkpoint = of_audio(2)
    checkpoint["model"]["y_emb.artist_emb.emb.weight"] = torch.zeros(1)
    with pytest.raises(LassError, match=r"no unconditional prior of Jukebox: it has y_emb\.artist_emb"):
        read_jukebox_prior(saved(tmp_path / "prior.pth.tar", checkpoint))


@pytest.mark.parametrize(
    ("sums", "sentence"),
    [
        (torch.zeros(4, 4), r"in the shape \(K, K, K\), got \(4, 4\)"),
        (torch.zeros(4, 4, 5), r"in the shape \(K, K, K\), got \(4, 4, 5\)"),
        (torch.full((2, 2, 2), 0.5), "counts, which are whole numbers"),
        (torch.full((2, 2, 2), torch.nan), "counts, which are whole numbers"),
        (torch.full((2, 2, 2), 1e30), "counts, which are whole numbers"),
        (torch.full((2, 2, 2), -1.0), "counts of at least 1"),
        (torch.zeros(1, 1, 1).expand(3000, 3000, 3000), "claim more than the file holds"),
        ({"sums": torch.zeros(2, 2, 2)}, "holds a dict: expected a single tensor"),
    ],
)
def test_other_sums_are_refused_in_one_sentence(tmp_path, sums, sentence):
    with pytest.raises(LassError, match=sentence) as error:
        read_sums(saved(tmp_path / "sums.pt", sums))
    assert "\n" not in str(error.value)


COORDINATES, COUNTS = np.array([[0, 1], [0, 1], [0, 1]]), np.array([1, 2])


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"coordinates": COORDINATES + CODES}, r"codes must be in 0…31, got 32…33"),
        ({"coordinates": COORDINATES - 1}, r"codes must be in 0…31, got -1…0"),
        ({"coordinates": 0 * COORDINATES}, "distinct triples"),
        ({"counts": 0 * COUNTS}, "counts of at least 1"),
        ({"counts": COUNTS / 4}, "counts, which are whole numbers"),
        ({"counts": np.ones(3)}, "other shapes than those of a sparse array"),
        ({"counts": np.array([None, Path()])}, "data.npy holds no numbers"),
        ({"shape": (2, 2)}, "other shapes than those of a sparse array"),
        ({"shape": (2, 3, 4)}, r"in the shape \(K, K, K\), got \(2, 3, 4\)"),
        ({"shape": (10**18,) * 3}, "num_codes must be an integer"),
        ({"more": np.zeros(10**7)}, "claim more than the file holds"),
    ],
)
def test_other_sparse_sums_are_refused_in_one_sentence(tmp_path, arrays, sentence):
    path = saved_sums(tmp_path / "sums.npz", **{"coordinates": COORDINATES, "counts": COUNTS, **arrays})
    with pytest.raises(LassError, match=sentence) as error:
        read_sums(path)
    assert "\n" not in str(error.value)


def test_a_header_does_not_decide_how_much_is_allocated(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**40,)})
    path = saved_sums(tmp_path / "sums.npz", COORDINATES, COUNTS)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (entries | {"data.npy": header.getvalue()}).items():
            archive.writestr(name, content)
    with pytest.raises(LassError, match="is damaged or something else"):
        read_sums(path)


def test_damaged_sums_are_refused(tmp_path):
    whole = saved_sums(tmp_path / "sums.npz", COORDINATES, COUNTS).read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for damaged in (
        whole[: len(whole) // 2],
        whole[:directory] + b"PK\x09\x09" + whole[directory + 4 :],
        whole[:60] + b"\xff" * 20 + whole[80:],
        b"",
    ):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(LassError, match="is damaged or something else"):
            read_sums(tmp_path / "damaged.npz")


def test_code_in_a_file_is_not_run(tmp_path):
    harm = Dangerous(tmp_path / "harm")
    whole_module = torch.nn.Sequential(torch.nn.Linear(2, 2))  # torch.save of a module instead of its weights
    for read in (read_vqvae, read_gpt2, read_jukebox_prior, read_sums):
        for content in (harm, {"a": harm}, whole_module):
            with pytest.raises(LassError):
                read(saved(tmp_path / "model.pt", content))
    np.savez(tmp_path / "sums.npz", coords=np.array([harm, harm]), data=np.ones(2), shape=np.ones(3, int))
    with pytest.raises(LassError, match="holds no numbers"):
        read_sums(tmp_path / "sums.npz")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Nothing to import: name at least one file, with --vqvae, --prior or --sums"),
        (["--vqvae", "nothing.pt"], "There is no checkpoint at nothing.pt"),
        (["--sums", "nothing.pt"], "There is no checkpoint at nothing.pt"),
        (["--sums", "sums.pt", "--sample-rate", "40000"], "must divide 44100, not 40000"),
        (["--prior", "prior.pt", "--heads", "0"], "--heads must be an integer, at least 1"),
        (["--prior", "prior.pt", "--heads", "3"], "which 3 heads do not divide"),
        (["--prior", "prior.pt", "--sums", "more.pt"], r"prior.pt has 32, more.pt has 33\): expected those of one"),
        (["--prior", "sums.pt"], "holds a tensor: expected a dictionary with weights"),
        (["--vqvae", "prior.pt"], r"prior.pt has no codeBook\.embedding\.weight"),
    ],
)
def test_a_mistaken_import_is_one_sentence(tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    saved("prior.pt", weights_of("prior"))
    saved("sums.pt", MADE["dense_sums"](CODES))
    saved("more.pt", MADE["dense_sums"](CODES + 1))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match=sentence) as error:
        main(["import", "authors", *options, "--out", "out"])
    assert "\n" not in str(error.value)
    assert set(tmp_path.rglob("*")) == before


def test_the_experiment_has_the_settings_of_an_imported_separator(tmp_path, repository):
    """experiments/mnist/authors.yaml and the separator of `lass import authors` are two ways to the same."""
    config = yaml.safe_load((repository / "experiments/mnist/authors.yaml").read_text())["model"]["init_args"]
    models = [saved(tmp_path / f"{name}.pt", weights_of(name)) for name in ("vqvae", "prior")]
    sums = saved(tmp_path / "sums.pt", MADE["dense_sums"](CODES))
    options = ["--vqvae", models[0], "--prior", models[1], "--sums", sums, "--out", tmp_path / "out"]
    main(["import", "authors", *map(str, options)])
    separator = Separator.from_pretrained(tmp_path / "out")
    assert separator.likelihood_weight == config["likelihood_weight"]
    assert separator.posterior_mean == config["posterior_mean"]
    assert separator.sampler == TopK(**config["sampler"]["init_args"])
    assert separator.refinement == LatentDescent(**config["refinement"]["init_args"])
    assert config["selection"].endswith(type(separator.selection).__name__)
