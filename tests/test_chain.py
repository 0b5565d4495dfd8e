"""All four stages at reduced size, run through the command line."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice

import pytest
import torch
from chain import SMALL, lass, words
from offline_runs import read_offline_runs

from lass import Separator, SparseCounts
from lass.codecs import codebook_of, load_codec
from lass.data.images.digits import Digits
from lass.data.mixing import mix
from lass.data.mixture_lists import write_tuples
from lass.data.sources import FixedTuples
from lass.data.tuple_samplers import RandomTuples
from lass.likelihood import AdditiveLikelihood, AdditiveMoments, ChainLikelihood, LatentLikelihood, LatentMoments
from lass.metrics import ImageFeatures, psnr
from lass.priors import load_prior
from lass.report.results import ResultsFolder
from lass.separation import memory

NO_LOGGER = ["--trainer.logger=false"]  # for runs whose logged content is not tested


def batched(items, size):
    """Split an iterable into lists of `size` items, like `itertools.batched` of Python 3.12."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def agreement(codes, others):
    """Fraction of equal codes. Other batch sizes may round near ties differently, which also changes later codes."""
    return (codes == others).float().mean()


def assert_same_scores(row, other):
    """Compare scores of equal computations to 0.01 dB or nats, as a BLAS's order of summation may depend on memory."""
    assert row.keys() == other.keys()
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
    assert numbers
    assert {name: other[name] for name in numbers} == pytest.approx(numbers, abs=1e-2, nan_ok=True)
    assert {**row, **numbers} == {**other, **numbers}


def test_every_stage_leaves_what_the_next_one_needs(chain):
    codec = load_codec("runs/digits/vqvae/codec")
    prior = load_prior("runs/digits/prior/prior")
    counts = SparseCounts.load("runs/digits/likelihood/counts.safetensors")
    assert codec.num_codes == prior.num_codes == counts.num_codes == 16
    assert counts.num_triples == 3 * 600 * 16  # epochs, pairs, positions
    assert 0 < counts.density < 1
    for stage in SMALL:
        assert (chain / "runs" / "digits" / stage / "config.yaml").exists()


def test_latents_are_counted_and_separated_with(chain, repository):
    """The sums of latents agree with a slow loop over the same pairs, also after a resumed run."""
    where = "--trainer.default_root_dir=runs/latents/{}"
    options = ["--trainer.logger=false", "--model.latents=true"]
    lass(repository, "likelihood", *options, "--trainer.max_epochs=1", where.format("likelihood"))
    options += ["--trainer.max_epochs=2", "--ckpt_path=last"]
    lass(repository, "likelihood", *options, where.format("likelihood"))
    counts = SparseCounts.load("runs/latents/likelihood/counts.safetensors")
    moments = LatentMoments.load("runs/latents/likelihood/latents.safetensors").state_dict()
    assert moments["counts"].sum() == counts.num_triples == 2 * 600 * 16

    codec = load_codec("runs/digits/vqvae/codec")
    sources = Digits(num_validation=200).part("train")
    sampler = RandomTuples(len(sources), 2, seed=0)
    sums, products = torch.zeros_like(moments["sums"]), torch.zeros_like(moments["products"])
    for epoch in range(2):
        sampler.set_epoch(epoch)
        # In the batches of the run, because other batches may round a near tie between codes differently.
        for pairs in batched(sampler, 300):
            first, second = (sources.__getitems__(list(side)).signals for side in zip(*pairs, strict=True))
            signals = torch.stack([first, second], 1)
            codes = torch.stack(codec.encode(torch.cat([first, second, mix(signals)])).flatten(1).chunk(3)[:2], 1)
            latents = codec.encode_latents(mix(signals)).flatten(2).movedim(1, 2).double().detach()
            products += torch.einsum("nti,ntj->ij", latents, latents)
            pair = codes.min(1).values * 16 + codes.max(1).values
            sums.index_add_(0, pair.flatten(), latents.flatten(0, 1))
    # Sums of up to 19,200 latents of order 1: float32 values, summed in float64.
    torch.testing.assert_close(moments["sums"], sums, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(moments["products"], products, atol=1e-2, rtol=1e-4)

    likelihood = "--model.likelihood=runs/latents/likelihood/latents.safetensors"
    few = [*NO_LOGGER, "--data.num_mixtures=2"]
    lass(repository, "separate", *few, likelihood, where.format("separate"))
    separator = Separator.from_pretrained("runs/latents/separate/separator")
    assert isinstance(separator.likelihood, LatentLikelihood)
    # Parts of a separator's folder can be used like the outputs of the stages, as in `make eval-...`.
    folder = "runs/latents/separate/separator"
    parts = [f"--model.codec={folder}/codec", f"--model.priors={folder}/prior"]
    finished = f"--model.likelihood={folder}/likelihood.safetensors"
    lass(repository, "separate", *few, *parts, finished, where.format("again"))
    assert_same_scores(*(ResultsFolder(f"runs/latents/{name}").read(1)[1] for name in ("separate", "again")))

    with pytest.raises(SystemExit, match=r"latents=True, but this run has False.*--model.latents=true"):
        lass(
            repository,
            "likelihood",
            "--model.latents=false",
            "--trainer.max_epochs=5",
            "--ckpt_path=last",
            where.format("likelihood"),
        )


def test_weakly_supervised_separation_uses_the_classes(chain, repository):
    """With a class-conditional prior, estimates are in the order of the classes of the sources.

    If both classes are equal (the last mixture), they are in the order that scores better.
    """
    data = Digits(batch_size=49, num_validation=200)
    pairs = data.mixture_tuples()[:49]
    pairs = pairs[[*range(8), 48]]
    write_tuples("weak.csv", pairs)
    conditional, where = "--model.prior.init_args.num_classes=10", "--trainer.default_root_dir=runs/weak/{}"
    lass(repository, "prior", *NO_LOGGER, conditional, where.format("prior"))
    assert load_prior("runs/weak/prior/prior").num_classes == 10
    options = ["--model.priors=runs/weak/prior/prior", "--model.refinement=lass.separation.NoRefinement"]
    options += ["--model.conditional=true", "--data.mixtures=weak.csv", "--data.num_mixtures=9"]
    lass(repository, "separate", *NO_LOGGER, *options, where.format("separate"))
    separator = Separator.from_pretrained("runs/weak/separate/separator")
    batch = FixedTuples(data.part("test"), pairs).__getitems__(list(range(9)))
    assert [i for i, (one, other) in enumerate(batch.labels.tolist()) if one == other] == [8]
    expected = separator.separate_batch(mix(batch.signals), batch.labels)
    results = ResultsFolder("runs/weak/separate")
    stored = torch.stack([results.read(i)[0]["codes"] for i in range(9)])
    assert agreement(stored[:8], expected.codes[:8]) > 0.9
    estimates = [results.read(i)[0]["estimates"] for i in range(9)]
    pairs = list(zip(estimates, batch.signals, strict=True))
    better = [psnr(e, s).mean() >= psnr(e.flip(0), s).mean() for e, s in pairs]
    assert better[8]
    assert not all(better[:8])
    swapped = separator.separate_batch(mix(batch.signals), batch.labels.flip(1))
    assert not torch.equal(swapped.codes, expected.codes)  # the classes matter


def test_counts_are_those_of_a_slow_recount(chain, repository):
    """The counts of one epoch equal those of a loop over the same triples."""
    from collections import Counter

    from pytorch_lightning import Trainer, seed_everything

    from lass.tasks import LikelihoodCounting

    seen = []

    class Recording(LikelihoodCounting):
        def training_step(self, batch):
            seen.append(batch.signals)
            super().training_step(batch)

    seed_everything(1)
    task = Recording("runs/digits/vqvae/codec")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, default_root_dir=chain / "recount", num_sanity_val_steps=0, **quiet)
    trainer.fit(task, Digits(batch_size=300, num_validation=200, tuples=True))
    codec, expected = load_codec("runs/digits/vqvae/codec"), Counter()
    for signals in seen:
        # In one batch, as in the module, because other batches may round a near tie between codes differently.
        together = torch.cat([signals[:, 0], signals[:, 1], signals.mean(1)])
        first, second, mixture = (codes.flatten() for codes in codec.encode(together).chunk(3))
        for a, b, m in zip(first.tolist(), second.tolist(), mixture.tolist(), strict=True):
            expected[a, b, m] += 1
            expected[b, a, m] += 1
    *coordinates, values = (tensor.tolist() for tensor in task.counts.triples())
    assert dict(zip(zip(*coordinates, strict=True), values, strict=True)) == expected


def test_scores_are_those_of_the_stored_estimates(chain):
    results = ResultsFolder("runs/digits/separate")
    batch = next(iter(Digits(batch_size=6, num_validation=200, num_mixtures=6).predict_dataloader()))
    with open(results.root / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["mixture"]) for row in rows] == list(range(6))
    for i, row in enumerate(rows):
        estimates, sources = results.read(i)[0]["estimates"], batch.signals[i]
        straight, swapped = psnr(estimates, sources).mean().item(), psnr(estimates.flip(0), sources).mean().item()
        assert float(row["psnr_db"]) == pytest.approx(straight, abs=1e-3)
        assert straight >= swapped
        average = psnr(mix(batch.signals)[i].expand(2, -1, -1, -1), sources).mean().item()
        assert float(row["average_psnr_db"]) == pytest.approx(average, abs=1e-3)
    summary = json.loads((results.root / "summary.json").read_text())
    scores = torch.tensor([float(row["psnr_db"]) for row in rows])
    expected = {"mean": scores.mean().item(), "std": scores.std().item(), "num": 6}
    assert summary["psnr_db"] == pytest.approx(expected, abs=1e-3)  # in dB; the order of float32 sums varies
    assert results.figure.read_bytes().startswith(b"\x89PNG")


def test_mixtures_have_the_weights_of_the_data(chain, repository):
    where = "runs/weighted/separate"
    lass(repository, "separate", "--data.weights=[0.75, 0.25]", f"--trainer.default_root_dir={where}")
    batch = next(iter(Digits(batch_size=6, num_validation=200, num_mixtures=6).predict_dataloader()))
    for i, (first, second) in enumerate(batch.signals):
        average = psnr((0.75 * first + 0.25 * second).expand(2, -1, -1, -1), batch.signals[i]).mean().item()
        assert ResultsFolder(where).read(i)[1]["average_psnr_db"] == pytest.approx(average, abs=1e-3)  # in dB


def test_the_saved_separator_repeats_a_mixture_of_the_run(chain):
    separator = Separator.from_pretrained("runs/digits/separate/separator")
    batch = next(iter(Digits(batch_size=1, num_validation=200, num_mixtures=6).predict_dataloader()))
    result = separator.separate(mix(batch.signals)[0])
    stored = ResultsFolder("runs/digits/separate").read(0)[0]["estimates"]
    both_orders = torch.stack([stored, stored.flip(0)])
    # Values are in [0, 1]. Batches of one and of four round differently, which accumulates over five refinement steps.
    assert (both_orders - result.estimates).abs().flatten(1).max(1).values.min() < 1e-3


def test_a_killed_run_goes_on_where_it_stopped(chain, repository):
    results = ResultsFolder("runs/digits/separate")
    files = sorted(results.root.glob("mixtures/*.safetensors"))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    with open(results.root / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    codes = results.read(4)[0]["codes"]
    files[4].unlink()
    lass(repository, "separate", *NO_LOGGER)
    tensors, row = results.read(4)
    assert agreement(tensors["codes"], codes) > 0.9  # separated alone now, in a batch of four before
    for file in files[:4] + files[5:]:
        assert (file.stat().st_mtime_ns, file.read_bytes()) == before[file]
    with open(results.root / "results.csv", newline="") as file:
        again = list(csv.DictReader(file))
    assert [r["psnr_db"] for i, r in enumerate(again) if i != 4] == [
        r["psnr_db"] for i, r in enumerate(table) if i != 4
    ]
    assert row["psnr_db"] == pytest.approx(float(table[4]["psnr_db"]), abs=1e-2)
    files[4].write_bytes(before[files[4]][1])  # the results that the run has logged


def test_other_settings_do_not_mix_with_old_results(chain, repository, capsys):
    with pytest.raises(SystemExit) as error:
        lass(repository, "separate", "--model.seed=1")
    assert "other settings (seed)" in str(error.value)
    assert "--model.overwrite=true" in str(error.value)
    few = [*NO_LOGGER, "--data.num_mixtures=2"]
    lass(repository, "separate", "--model.seed=1", "--trainer.default_root_dir=runs/digits/other", *few)
    assert ResultsFolder("runs/digits/other").has(1)
    assert "seed: 0" in (chain / "runs/digits/separate/config.yaml").read_text()
    with pytest.raises(SystemExit, match=r"other settings \(mixtures_of\)"):
        lass(repository, "separate", "--data.predict_split=validation")
    with pytest.raises(SystemExit, match="results for other mixtures"):
        lass(repository, "separate", "--data.mixtures=null", "--data.split_seed=4")


def test_after_too_little_memory_fewer_candidates_go_into_the_same_folder(chain, repository, monkeypatch):
    folder = "--trainer.default_root_dir=runs/digits/large"
    with monkeypatch.context() as patch:
        patch.setattr(memory, "free_bytes", lambda priors, device: 10)
        with pytest.raises(SystemExit, match="caches for one candidate of 16 codes"):
            lass(repository, "separate", folder)
    few = [*NO_LOGGER, "--data.num_mixtures=2"]
    lass(repository, "separate", folder, "--model.sampler.init_args.num_candidates=4", *few)
    assert ResultsFolder("runs/digits/large").has(1)


def test_a_wrong_codec_is_refused_by_name(chain, repository):
    torch.manual_seed(5)
    from lass.codecs import ImageVQVAE

    ImageVQVAE((1, 16, 16), num_codes=16, width=16, latent_dim=32).save_pretrained("runs/other/vqvae/codec")
    with pytest.raises(SystemExit, match="prior was made for the codec"):
        lass(repository, "separate", "--model.codec=runs/other/vqvae/codec", "--model.overwrite=true")
    ImageVQVAE((1, 16, 16), num_codes=20, width=16).save_pretrained("runs/bigger/vqvae/codec")
    with pytest.raises(SystemExit, match=r"prior has num_codes = 16.*--model.prior.init_args.num_codes=20"):
        lass(repository, "prior", "--data.codec=runs/bigger/vqvae/codec", "--trainer.default_root_dir=runs/x/prior")


@pytest.mark.parametrize(
    ("stage", "option", "hint"),
    [
        ("prior", "--data.codec=runs/mnist/vqvae/codec", "make train-vqvae DATASET=mnist"),
        ("likelihood", "--model.codec=runs/nothing/vqvae/codec", "make train-vqvae DATASET=nothing"),
        ("separate", "--model.priors=runs/mnist/prior/prior", "make train-prior DATASET=mnist"),
        ("separate", "--model.likelihood=runs/mnist/likelihood/counts.safetensors", "make count DATASET=mnist"),
    ],
)
def test_a_missing_artefact_names_the_command_that_makes_it(chain, repository, stage, option, hint):
    with pytest.raises(SystemExit) as error:
        lass(repository, stage, option)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_training_resumes_from_its_checkpoint(chain, repository):
    """A resumed run trains the missing epochs only, from the weights of the checkpoint."""
    for stage in ("prior", "likelihood"):
        shutil.copytree(f"runs/digits/{stage}", f"runs/resumed/{stage}")
    before = torch.load("runs/resumed/prior/checkpoints/last.ckpt", weights_only=True)
    assert (before["epoch"], before["global_step"]) == (3, 4 * 19)
    places = ["--trainer.default_root_dir=runs/resumed/prior", "--trainer.logger.init_args.save_dir=runs/resumed/log"]
    lass(repository, "prior", "--ckpt_path=last", "--trainer.max_epochs=8", *places)
    after = torch.load("runs/resumed/prior/checkpoints/last.ckpt", weights_only=True)
    assert (after["epoch"], after["global_step"]) == (7, 8 * 19)
    logged = read_offline_runs(chain / "runs/resumed/log")[0].history
    assert min(logged["trainer/global_step"]) >= 4 * 19  # a new training would have logged earlier steps

    longer, where = [*NO_LOGGER, "--trainer.max_epochs=5"], "--trainer.default_root_dir=runs/{}/likelihood"
    lass(repository, "likelihood", "--ckpt_path=last", *longer, where.format("resumed"))
    lass(repository, "likelihood", *longer, where.format("uninterrupted"))
    resumed, uninterrupted = (
        (chain / f"runs/{name}/likelihood/counts.safetensors").read_bytes() for name in ("resumed", "uninterrupted")
    )
    assert resumed == uninterrupted

    with pytest.raises(SystemExit, match="no checkpoint to resume from"):
        lass(repository, "prior", "--ckpt_path=last", "--trainer.default_root_dir=runs/new/prior")


@pytest.mark.slow
def test_two_processes_give_exactly_what_one_gives(chain, repository, tmp_path, monkeypatch):
    """Counts, then distances and means of scores, of two processes over gloo with unequal shares.

    Both stages run in the same two processes, as importing Lightning takes longer than either.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # without Inception
    ImageFeatures(num_features=5, width=8).save_pretrained("runs/features/features")
    few = ["--model.sampler.init_args.num_candidates=8", "--data.num_mixtures=5", "--data.batch_size=2"]
    options = {
        "likelihood": ["--data.num_validation=198", "--data.batch_size=100", "--model.latents=true"],  # 601 pairs
        "separate": [*few, "--model.features=runs/features/features"],
    }
    both = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu"]
    commands = []
    for stage, given in options.items():
        given = [*given, "--trainer.logger=false", "--trainer.default_root_dir=runs/{}/" + stage]
        lass(repository, stage, *(option.format("one") for option in given))
        commands.append(words(repository, stage, *both, *(option.format("two") for option in given)))
    command = [sys.executable, str(repository / "tests/stages_worker.py"), json.dumps(commands)]
    run = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, timeout=300)
    assert run.returncode == 0, run.stderr.decode()
    assert_same_counts(chain)
    assert_same_summaries(chain)


def assert_same_counts(chain):
    """Compare the counts and moments of one process and of two."""
    tables = []
    for name in ("one", "two"):
        counts = SparseCounts.load(chain / f"runs/{name}/likelihood/counts.safetensors")
        assert counts.num_triples == 3 * 600 * 16 + 3 * 16
        *coordinates, values = counts.triples()
        tables.append(torch.zeros(16, 16, 16).index_put_(tuple(coordinates), values.float()))
    # Other batches may round a near tie between codes differently, in at most 0.1 % of the triples.
    assert (tables[0] - tables[1]).abs().sum() <= 2e-3 * tables[0].sum()
    paths = [chain / f"runs/{name}/likelihood/latents.safetensors" for name in ("one", "two")]
    one, two = (LatentMoments.load(path).state_dict() for path in paths)
    assert one["counts"].sum() == two["counts"].sum()
    for name in ("sums", "products"):  # over all pairs, as a changed code moves terms between pairs
        torch.testing.assert_close(two[name].sum(0), one[name].sum(0), rtol=1e-4, atol=1e-2)  # latents are float32


def assert_same_summaries(chain):
    """Compare the scores and distances of one process and of two."""
    one, two = (json.loads((chain / f"runs/{name}/separate/summary.json").read_text()) for name in ("one", "two"))
    assert "frechet_small" in one
    assert one.keys() == two.keys()
    for name, values in one.items():
        # Batch sizes differ, so scores differ by float32 rounding; the sampled codes are equal.
        assert two[name] == pytest.approx(values, rel=1e-4, abs=1e-6)
    tables = [(chain / f"runs/{name}/separate/results.csv").read_text().splitlines() for name in ("one", "two")]
    assert len(tables[0]) == len(tables[1]) == 6


@pytest.mark.slow
def test_a_count_that_was_killed_ends_with_the_identical_file(chain, repository):
    """A process killed after its first checkpoint is resumed, and writes the same file as an uninterrupted one."""
    where = "--trainer.default_root_dir=runs/killed/likelihood"
    options = (where, "--trainer.max_epochs=100000", "--trainer.logger=false")
    context = multiprocessing.get_context("fork")  # a process that has imported everything
    endless = context.Process(target=lass, args=(repository, "likelihood", *options))
    endless.start()
    checkpoint = chain / "runs/killed/likelihood/checkpoints/last.ckpt"
    for _ in range(1200):
        if checkpoint.exists() or not endless.is_alive():
            break
        time.sleep(0.1)
    time.sleep(0.3)
    endless.kill()
    endless.join()
    assert checkpoint.exists()
    assert endless.exitcode == -signal.SIGKILL
    epochs = torch.load(checkpoint, weights_only=True)["epoch"] + 2  # at least one more
    options = (f"--trainer.max_epochs={epochs}", "--trainer.logger=false")
    lass(repository, "likelihood", "--ckpt_path=last", where, *options)
    lass(repository, "likelihood", "--trainer.default_root_dir=runs/whole/likelihood", *options)
    killed, whole = (
        (chain / f"runs/{name}/likelihood/counts.safetensors").read_bytes() for name in ("killed", "whole")
    )
    assert killed == whole


def test_counting_stops_when_coverage_no_longer_rises(chain, repository):
    where = "--trainer.default_root_dir=runs/converged/likelihood"
    lass(repository, "likelihood", *NO_LOGGER, "--model.min_coverage_gain=0.05", "--trainer.max_epochs=30", where)
    counts = SparseCounts.load("runs/converged/likelihood/counts.safetensors")
    epochs = counts.num_triples / (600 * 16)
    assert 2 <= epochs < 30
    coverage = read_offline_runs(chain / "runs/digits/likelihood")[0].history["val/coverage"]
    assert len(coverage) == 3  # one per epoch
    assert coverage == sorted(coverage)


def test_a_finished_likelihood_can_be_named_instead_of_the_counts(chain, repository):
    counts = SparseCounts.load("runs/digits/likelihood/counts.safetensors")
    counts.likelihood(codebook=codebook_of(load_codec("runs/digits/vqvae/codec"))).save("runs/finished.safetensors")
    finished = "--model.likelihood=runs/finished.safetensors"
    sampler = "--model.sampler=lass.samplers.SequentialMonteCarlo"
    counted = "--model.likelihood=runs/digits/likelihood/counts.safetensors"
    for name, options in {"counts": [counted], "finished": [finished]}.items():
        few = ["--data.num_mixtures=2", "--model.sampler.num_candidates=8", "--model.refinement.init_args.steps=1"]
        where = f"--trainer.default_root_dir=runs/{name}/separate"
        lass(repository, "separate", *NO_LOGGER, sampler, *few, *options, where)
    rows = [ResultsFolder(f"runs/{name}/separate").read(1)[1] for name in ("counts", "finished")]
    assert_same_scores(*rows)
    assert -1e4 < rows[0]["log_evidence"] < 0
    with pytest.raises(SystemExit, match="Smoothing needs counts"):
        lass(repository, "separate", finished, "--model.smoothing=0.5", "--trainer.default_root_dir=runs/no/separate")


def test_the_run_ends_with_its_scores(chain, repository, capsys):
    lass(repository, "separate", *NO_LOGGER)
    printed = capsys.readouterr().out
    assert "Separated 6 mixtures" in printed
    assert "estimates" in printed
    assert "average baseline" in printed
    assert "codec's reconstruction" in printed
    assert "runs/digits/separate/separations.png" in printed


def test_a_damaged_result_is_made_again(chain, repository):
    path = chain / "runs/digits/separate/mixtures/000002.safetensors"
    codes = ResultsFolder("runs/digits/separate").read(2)[0]["codes"].clone()  # not a view of the file
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    lass(repository, "separate", *NO_LOGGER)
    assert agreement(ResultsFolder("runs/digits/separate").read(2)[0]["codes"], codes) > 0.9  # separated alone now
    path.write_bytes(whole)  # the results that the run has logged


@pytest.mark.parametrize(
    ("stage", "options", "words"),
    [
        ("likelihood", ["--data.tuples=false"], "set --data.tuples=true"),
        ("prior", ["--ckpt_path=nowhere.ckpt"], "no checkpoint to resume from at nowhere.ckpt"),
        ("prior", ["--ckpt_path=damaged.ckpt"], "damaged.ckpt cannot be read, as it is cut or damaged"),
        ("separate", ["--data.num_mixtures=-3"], "num_mixtures must be an integer, at least 1"),
        ("separate", ["--data.num_mixtures=300"], "There are 198 mixtures"),
        (
            "separate",
            ["--model.sampler=lass.samplers.TopK", "--model.sampler.k=0"],
            "k of TopK must be an integer, at least 1",
        ),
        ("separate", ["--model.conditional=true"], "no condition; got one"),
    ],
)
def test_mistakes_end_in_one_sentence(chain, repository, stage, options, words):
    (chain / "damaged.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(SystemExit) as error:
        lass(repository, stage, *options, f"--trainer.default_root_dir=runs/mistake/{stage}")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_three_sources_are_counted_and_separated(chain, repository):
    """One run counts the tables of partial mixtures and the additive statistics; both likelihoods separate."""
    where, three = "--trainer.default_root_dir=runs/three/{}", "--data.num_sources=3"
    options = [*NO_LOGGER, three, "--model.latents=false", "--model.additive=true", "--trainer.max_epochs=1"]
    lass(repository, "likelihood", *options, where.format("likelihood"))
    tables = [f"runs/three/likelihood/{name}.safetensors" for name in ("counts", "counts_3")]
    codec, data = load_codec("runs/digits/vqvae/codec"), Digits(num_validation=200)
    sources, expected = data.part("train"), [Counter(), Counter()]
    additive = AdditiveMoments.load("runs/three/likelihood/additive.safetensors").state_dict()
    squares = torch.zeros_like(additive["squares"])
    for batch in batched(RandomTuples(len(sources), 3, seed=0), 300):
        signals = torch.stack([sources.__getitems__(list(own)).signals for own in zip(*batch, strict=True)], 1)
        stacked = [*signals.unbind(1), mix(signals[:, :2]), mix(signals)]
        first, second, third, two, all_three = codec.encode(torch.cat(stacked)).flatten(1).chunk(5)
        ordered = torch.minimum(first, second), torch.maximum(first, second)
        for counter, triple in zip(expected, [(*ordered, two), (two, third, all_three)], strict=True):
            counter.update(zip(*(x.flatten().tolist() for x in triple), strict=True))
        for own, codes in zip(signals.unbind(1), (first, second, third), strict=True):
            errors = codec.encode_latents(own) - codec.embed(codes.unflatten(1, codec.grid))
            squares.index_add_(0, codes.flatten(), errors.square().sum(1).flatten().double().detach())
    for path, counter in zip(tables, expected, strict=True):
        counts = SparseCounts.load(path).state_dict()
        keys, num = counts["keys"].tolist(), codec.num_codes
        found = {
            (key // num % num, key % num, key // num**2): n
            for key, n in zip(keys, counts["counts"].tolist(), strict=True)
        }
        assert found == counter
    torch.testing.assert_close(additive["squares"], squares, atol=1e-3, rtol=1e-4)

    few = [*NO_LOGGER, three, "--model.num_sources=3", "--data.num_mixtures=2", "--data.mixtures=null"]
    chains = f"--model.likelihood=[{','.join(tables)}]"
    additive_file = "--model.likelihood=runs/three/likelihood/additive.safetensors"
    for name, likelihood, kind in (("chain", chains, ChainLikelihood), ("additive", additive_file, AdditiveLikelihood)):
        lass(repository, "separate", *few, likelihood, where.format(name))
        separator = Separator.from_pretrained(f"runs/three/{name}/separator")
        assert isinstance(separator.likelihood, kind)
        assert len(separator.priors) == 3
        stored, row = ResultsFolder(f"runs/three/{name}").read(1)
        assert stored["estimates"].shape == (3, 1, 16, 16)
        assert {"psnr_1_db", "psnr_2_db", "psnr_3_db"} <= row.keys()
    assert len(Separator.from_pretrained("runs/three/additive/separator", num_sources=2).priors) == 2
