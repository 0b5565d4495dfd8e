"""Tables of the paper: statistics, results folders in all states, the plan, and what is written."""

from __future__ import annotations

import csv
import json
import math
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from test_configs import parsed
from test_packaging import make
from tiny_datasets import write_tiny_mnist

from lass import LassError, SparseCounts
from lass.report.results import CONTENT, ResultsFolder
from lass.report.tables import __main__ as command_line
from lass.report.tables.definition import Column, Likelihood, Row, all_tables, load_table
from lass.report.tables.folders import OTHER_VERSION, read_results
from lass.report.tables.likelihoods import logged_coverage, section_of_likelihoods
from lass.report.tables.lines import Line, lines_of
from lass.report.tables.pictures import separations
from lass.report.tables.plan import Wishes, commands, describe, plan, run_command
from lass.report.tables.plots import quality_against_seconds
from lass.report.tables.published import PUBLISHED, publish, read_published
from lass.report.tables.seconds import Timing, describe_machine, read_seconds, timing, write_seconds
from lass.report.tables.statistics import Estimate, estimate, paired_difference
from lass.report.tables.writers import escape_latex, markdown, section_of, write_all


def write_results(folder, scores, content=CONTENT, first=0, checksums=1000, table=True, summary=None):
    """Write a results folder with the scores of psnr_db of mixtures `first`, `first` + 1, …, as stage 4 does."""
    results = ResultsFolder(folder)
    results.start({"seed": 0}, overwrite=False)
    if content != CONTENT:
        (results.root / "settings.json").write_text(json.dumps({"content": content}))
    rows = [{"mixture": i, "psnr_db": score, "checksum": checksums + i} for i, score in enumerate(scores, start=first)]
    for row in rows:
        results.write(row["mixture"], {"estimates": torch.zeros(2, 1, 2, 2)}, row)
    if table:
        results.write_table(rows, summary or {"psnr_db": {"mean": 0.0}})
    return results


def row(name, folder, **entries):
    runs = [{"folder": folder, "command": f"make eval-mnist METHOD={name}", **entries.pop("run", {})}]
    return {"name": name, "runs": runs, **entries}


@pytest.fixture
def defined(tmp_path, monkeypatch):
    """Function that writes the definition of a table with one part, and loads it; in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def define(*rows, **entries):
        part = {"name": "MNIST", "dataset": "mnist", "mixtures": 4, "reference": "", **entries}
        part = {"columns": [{"score": "psnr_db", "title": "PSNR in dB"}], **part, "rows": list(rows)}
        path = tmp_path / "experiments/tables/table-8.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"title": "Methods", "parts": [part]}))
        return load_table("8")

    return define


def test_mean_and_interval_are_those_of_scipy():
    values = np.random.default_rng(0).normal(20, 5, 37)
    found = estimate([*values, math.nan, math.inf, -math.inf])
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.num == 37
    assert found.mean == pytest.approx((low + high) / 2, rel=1e-9)
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-9)
    assert found.deviation == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert estimate([math.nan]) is None
    alone = estimate([3.0])
    assert (alone.mean, alone.num) == (3, 1)
    assert math.isnan(alone.half_width)


def test_paired_difference_is_that_of_scipy_and_finds_a_planted_one():
    random = np.random.default_rng(1)
    mixtures = random.normal(20, 5, 300)  # difficulty of each mixture, which both methods share
    first, second = (mixtures + random.normal(shift, 0.3, 300) for shift in (0.5, 0.0))
    scores = {(i, 7): value for i, value in enumerate(first)}
    reference = {(i, 7): value for i, value in enumerate(second)}
    found = paired_difference(scores, reference)
    low, high = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=1e-9)
    assert abs(found.mean - 0.5) < 0.1  # the standard error is 0.024
    assert found.half_width < 0.1 * estimate(first).half_width * math.sqrt(2)  # unpaired
    other = {(i, 8): value for i, value in enumerate(second)}  # other mixtures with the same indices
    assert paired_difference(scores, other) is None
    half = paired_difference(scores, {key: value for key, value in reference.items() if key[0] < 150})
    assert half.num == 150
    assert half.mean == pytest.approx((first - second)[:150].mean(), rel=1e-9)
    undefined = paired_difference({**scores, (0, 7): math.nan}, reference)
    assert undefined.num == 299


def test_results_folders_in_all_states(tmp_path):
    assert read_results(tmp_path / "nowhere") == read_results(tmp_path)
    write_results(tmp_path / "whole", [20.0, math.nan], summary={"fid": {"estimates": 8.5}, "psnr_db": {"num": 2}})
    whole = read_results(tmp_path / "whole")
    assert (len(whole.scores), whole.problem, whole.num_stored) == (2, "", 2)
    assert whole.values("psnr_db")[0, 1000] == 20
    assert math.isnan(whole.values("psnr_db")[1, 1001])
    assert math.isnan(whole.values("sdr_db")[0, 1000])
    assert whole.distance("fid.estimates") == 8.5
    assert whole.distance("fid.mixture") is whole.distance("kid.estimates") is whole.distance("fid") is None
    write_results(tmp_path / "old", [20.0], content=CONTENT - 1)
    assert read_results(tmp_path / "old").problem == OTHER_VERSION
    write_results(tmp_path / "begun", [20.0, 21.0], table=False)
    assert read_results(tmp_path / "begun").problem == "unfinished: 2 mixtures are stored, no table yet"
    write_results(tmp_path / "resumed", [20.0])
    write_results(tmp_path / "resumed", [21.0, 22.0], first=1, table=False)
    resumed = read_results(tmp_path / "resumed")
    assert (len(resumed.scores), resumed.problem) == (1, "unfinished: 3 mixtures are stored")
    (tmp_path / "whole/results.csv").write_text("mixture,psnr_db\nx,1\n")
    assert "results.csv is damaged" in read_results(tmp_path / "whole").problem
    (tmp_path / "begun/settings.json").write_text("{")
    assert "settings.json is damaged" in read_results(tmp_path / "begun").problem


def test_plan_runs_what_is_cheap_and_nothing_twice(defined, tmp_path):
    table = defined(
        row("whole", "runs/mnist/whole"),
        row("quick", "runs/mnist/quick", mixtures=1000, quick=2, seconds=100),
        row("slow", "runs/mnist/slow", seconds=1000),
        row("cheap", "runs/mnist/cheap", seconds=1000, cheap=True),
        row("untrained", "runs/mnist/untrained", run={"needs": ["models"], "train": ["make train-nmf DATASET=mnist"]}),
        row("begun", "runs/mnist/begun", seconds=100),
        row("old", "runs/mnist/old"),
        {"name": "NCSN", "paper": {"psnr_db": 29.3}},
        row("same", "runs/mnist/quick", mixtures=1, prefix="codec_"),
    )
    write_results("runs/mnist/whole", [1.0, 2.0, 3.0, 4.0])
    write_results("runs/mnist/begun", [1.0, 2.0, 3.0], table=False)
    write_results("runs/mnist/old", [1.0], content=CONTENT - 1)
    planned = {item.row.name: item for item in plan(table, Wishes(), {})}
    assert [name for name, item in planned.items() if item.is_complete] == ["whole", "NCSN"]
    assert [name for name, item in planned.items() if item.runs_now] == ["quick", "cheap", "begun", "same"]
    assert planned["begun"].seconds == pytest.approx(100 + 20)  # one of four mixtures, and the start
    assert planned["slow"].seconds == pytest.approx(4000 + 20)
    options = Wishes(options={"mnist": "--data.root=x", "celeba": "--data.root=y"})
    waiting = commands(planned.values(), options)
    assert list(waiting) == ["runs/mnist/quick", "runs/mnist/cheap", "runs/mnist/begun"]
    assert waiting["runs/mnist/quick"][0] == ('make eval-mnist METHOD=quick ARGS="--data.num_mixtures=2 --data.root=x"')
    said = "\n".join(describe(planned.values(), Wishes()))
    for words in (
        "complete        whole (MNIST): 4 mixtures",
        "left out        slow (MNIST): 4 mixtures, about 67 min",
        "to run now      begun (MNIST): 4 mixtures, about 2 min; unfinished: 3 mixtures are stored, no table yet",
        "left out        old (MNIST): 4 mixtures, about 24 s; made by another version of lass, replace it",
        "needs training  untrained (MNIST)\n                    make train-nmf DATASET=mnist",
    ):
        assert words in said
    assert "NCSN" not in said

    everything = {item.row.name: item for item in plan(table, Wishes(everything=True), {})}
    assert {name for name, item in everything.items() if item.runs_now} == {"quick", "slow", "cheap", "begun", "same"}
    assert everything["quick"].target == 1000
    measured = plan(table, Wishes(), {"runs/mnist/slow": Timing(1.0, 0.1, 0.1, 10)})
    assert measured[2].runs_now  # the measured time replaces the estimate
    write_results("runs/mnist/quick", [1.0, 2.0])
    write_results("runs/mnist/quick", [3.0], first=2, table=False)  # a run of all mixtures that was stopped
    assert plan(table, Wishes(), {})[1].is_complete
    (rest,) = [item for item in plan(table, Wishes(everything=True), {}) if item.row.name == "quick"]
    assert rest.runs_now
    assert rest.seconds == pytest.approx(20 + 997 * 100)
    more = plan(table, Wishes(num_mixtures=6), {})
    assert not more[0].is_complete
    assert more[0].target == 6
    (tmp_path / "models").touch()
    assert plan(table, Wishes(), {})[4].runs_now


def test_of_several_runs_the_complete_one_is_shown(defined):
    runs = [
        {"folder": f"runs/mnist/{name}", "command": "make eval-mnist", "needs": [name]} for name in ("own", "given")
    ]
    table = defined({"name": "LASS", "runs": runs})
    assert plan(table, Wishes(), {})[0].run is None
    Path("given").touch()
    assert plan(table, Wishes(), {})[0].run.folder == "runs/mnist/given"
    Path("own").touch()
    assert plan(table, Wishes(), {})[0].run.folder == "runs/mnist/own"
    write_results("runs/mnist/given", [1.0, 2.0])
    assert plan(table, Wishes(), {})[0].run.folder == "runs/mnist/given"  # is continued
    write_results("runs/mnist/own", [1.0, 2.0, 3.0, 4.0])
    (planned,) = plan(table, Wishes(), {})
    assert planned.is_complete
    assert planned.run.folder == "runs/mnist/own"


def test_a_run_does_not_inherit_the_options_of_the_tables(tmp_path, monkeypatch):
    (tmp_path / "Makefile").write_text('show:\n\t@echo "$(ARGS) $(DATASET) $$MAKEFLAGS" > said\nfail:\n\t@exit 3\n')
    monkeypatch.chdir(tmp_path)
    for name, value in {"ARGS": "--all", "DATASET": "celeba", "MAKEFLAGS": " -- ARGS=--all"}.items():
        monkeypatch.setenv(name, value)
    assert run_command('make show ARGS="--data.num_mixtures=3 -c x.yaml"')
    assert (tmp_path / "said").read_text().split()[:3] == ["--data.num_mixtures=3", "-c", "x.yaml"]
    assert "--all" not in (tmp_path / "said").read_text()
    assert "celeba" not in (tmp_path / "said").read_text()
    assert not run_command("make fail")


def test_table_has_scores_intervals_differences_and_times(defined, tmp_path):
    random = np.random.default_rng(2)
    lass = random.normal(29, 4, 50)
    nmf = lass - 10 + random.normal(0, 0.1, 50)
    table = defined(
        row("NMF_1 & 2", "runs/mnist/nmf", paper={"psnr_db": 9.4}),
        {"name": "NCSN", "paper": {"psnr_db": "29.3 ± 1", "seconds": 53.34}},
        row("LASS", "runs/mnist/separate", run={"needs": ["gone"]}, note="50 %"),
        row("failed", "runs/mnist/failed"),
        reference="LASS",
    )
    write_results("runs/mnist/separate", lass)
    write_results("runs/mnist/nmf", nmf[:30])
    times = {"runs/mnist/nmf": timing([0.5, 0.7], "cpu"), "runs/mnist/elsewhere": timing([1.0], "cpu")}
    (part,) = table.parts
    lines = lines_of(part, plan(table, Wishes(), times), times, failed=["runs/mnist/failed"])
    section = section_of(part, lines, "MNIST", ["note"])
    assert section.header == [
        *("method", "PSNR in dB", "95 % interval", "paper", "difference to LASS", "mixtures"),
        *("seconds for one mixture", "paper, seconds", "remark"),
    ]
    half = 2.045 * nmf[:30].std(ddof=1) / math.sqrt(30)  # 2.045: 97.5 % quantile of Student's t, 29 degrees of freedom
    shift = (nmf - lass)[:30]
    expected = [f"{nmf[:30].mean():.2f} ± {nmf[:30].std(ddof=1):.2f}", f"± {half:.2f}", "9.4"]
    expected += [f"−{-shift.mean():.2f} ± {2.045 * shift.std(ddof=1) / math.sqrt(30):.2f}", "30", "0.60 ± 0.14"]
    assert section.rows[0] == ["NMF_1 & 2", *expected, "", ""]
    assert section.rows[1] == ["NCSN", "", "", "29.3 ± 1", "", "", "", "53.34", ""]
    assert section.rows[2][5:] == ["50", "", "", "50 %"]
    assert section.rows[3][-1] == "the run failed, see its output"

    text = write_all(tmp_path / "out", "table-8", "Methods", [section])
    assert text == (tmp_path / "out/table-8.md").read_text() == markdown("Methods", [section])
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in body} == {10}
    latex = (tmp_path / "out/table-8.tex").read_text()
    assert r"NMF\_1 \& 2 & " in latex
    assert r"50 \%" in latex
    assert latex.count(r" \\") == len(section.rows) + 1
    with open(tmp_path / "out/table-8.csv", newline="") as file:
        stored = list(csv.DictReader(file))
    assert float(stored[0]["psnr_db"]) == pytest.approx(nmf[:30].mean(), rel=1e-9)
    assert float(stored[0]["psnr_db difference"]) == pytest.approx(shift.mean(), rel=1e-9)
    assert float(stored[0]["seconds"]) == pytest.approx(0.6)
    assert stored[1]["psnr_db"] == stored[1]["psnr_db difference"] == ""


def test_undefined_scores_and_distances_are_in_the_table(defined):
    columns = [{"score": "psnr_db", "title": "PSNR"}, {"score": "fid.estimates", "title": "FID"}]
    table = defined(row("LASS", "runs/mnist/separate", mixtures=3), columns=columns)
    write_results("runs/mnist/separate", [20.0, math.nan, 22.0], summary={"fid": {"estimates": 8.5}})
    (part,) = table.parts
    section = section_of(part, lines_of(part, plan(table, Wishes(), {}), {}), "MNIST")
    assert section.header == ["method", "PSNR", "95 % interval", "FID", "mixtures"]
    assert section.rows == [["LASS", "21.00 ± 1.41", "± 12.71", "8.50", "3"]]  # 12.71 = t quantile, 1 degree of freedom
    assert section.records[0]["psnr_db number"] == 2


def test_latex_commands_are_escaped():
    assert escape_latex("a_b & 5 % of $1 #2 {x} ~ ^ \\") == (
        r"a\_b \& 5 \% of \$1 \#2 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escape_latex("−1 ± 2, λ") == r"$-$1 $\pm$ 2, $\lambda$"


def test_likelihoods_have_density_pairs_and_coverage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts = SparseCounts(4)
    first, second, mixture = torch.randint(4, (3, 9), generator=torch.Generator().manual_seed(0))
    counts.add(first, second, mixture)
    counts.save("counts.safetensors")
    triples = {(a, b, c) for a, b, c in zip(first.tolist(), second.tolist(), mixture.tolist(), strict=True)}
    triples |= {(b, a, c) for a, b, c in triples}
    pairs = {(a, b) for a, b, _ in triples}
    for version, coverage in {"version_2": 0.5, "version_10": 0.75}.items():
        log = Path("log/csv", version, "metrics.csv")
        log.parent.mkdir(parents=True)
        log.write_text(f"epoch,val/coverage,loss\n0,0.25,\n1,{coverage},\n2,,3\n")
    Path("damaged.safetensors").write_bytes(b"no counts")
    rows = [
        Likelihood("ours", 256, 1.49, ["counts.safetensors"], "log"),
        Likelihood("shipped", 256, 1.49, ["none.safetensors", "counts.safetensors"], "log"),
        Likelihood("absent", 512, 6.06, ["none.safetensors"]),
        Likelihood("damaged", 512, 6.06, ["damaged.safetensors"]),
    ]
    section = section_of_likelihoods(rows, "counts")
    ours, shipped, absent, damaged = section.records
    assert ours["K"] == 4
    assert ours["density in %"] == pytest.approx(100 * len(triples) / 64)
    assert ours["pairs seen"] == len(pairs)
    assert ours["coverage of validation triples in %"] == 75
    assert shipped["coverage of validation triples in %"] is None
    assert (absent["remark"], absent["K"]) == ("needs training", None)
    assert "damaged.safetensors is damaged" in damaged["remark"]
    assert section.rows[0][:5] == ["ours", "4", f"{100 * len(triples) / 64:.3g}", "256", "1.49"]
    assert logged_coverage(tmp_path / "nowhere") is None


def test_times_are_stored_for_all_methods(tmp_path):
    path = tmp_path / "seconds-mnist.json"
    assert read_seconds(path) == {}
    write_seconds(path, {"threads": 2}, {"runs/mnist/nmf": [1.0, 3.0]})
    found = read_seconds(path)["runs/mnist/nmf"]
    assert (found.mean, found.num, found.values, found.machine) == (2, 2, (1.0, 3.0), "threads 2")
    assert found.deviation == pytest.approx(math.sqrt(2))
    for damaged in ('{"machine": {}, "seconds": {"runs/mnist/nmf": ["x"]}}', '{"seconds": {}}', '{"machine": 1}'):
        path.write_text(damaged)
        with pytest.raises(LassError, match=r"holds no times of methods: delete it, and measure again with `make sec"):
            read_seconds(path)


def test_a_machine_is_described_by_its_processor():
    machine = describe_machine("cpu")
    assert machine["threads"] == torch.get_num_threads()
    assert machine["model"]


def test_published_results_stand_in_for_runs_that_were_not_made(defined):
    scores = [20.123456789, math.nan, -3.0, 1e-9]
    write_results("runs/mnist/nmf", scores, checksums=4238722402, summary={"fid": {"estimates": 8.5}})
    made = read_results("runs/mnist/nmf")
    root = publish("runs/mnist/nmf", made, "make eval-mnist METHOD=nmf", timing([0.5, 0.7], "device cpu"))
    assert root == PUBLISHED / "mnist/nmf"
    about = json.loads((root / "about.json").read_text())
    assert (about["command"], about["settings"]["seed"]) == ("make eval-mnist METHOD=nmf", 0)
    shutil.rmtree("runs")

    found = read_published("runs/mnist/nmf")
    assert found.published == about["date"]
    assert list(found.scores) == [(i, 4238722402 + i) for i in range(4)]
    assert list(found.values("psnr_db").values()) == pytest.approx(scores, rel=1e-5, nan_ok=True)
    assert found.distance("fid.estimates") == 8.5
    assert (found.seconds.mean, found.seconds.machine) == (pytest.approx(0.6), "device cpu")
    assert read_published("runs/mnist/none").scores == {}

    table = defined(row("nmf", "runs/mnist/nmf"), row("lass", "runs/mnist/separate", run={"needs": ["gone"]}))
    (nmf, lass) = plan(table, Wishes(), {})
    assert (nmf.is_complete, nmf.runs_now, lass.results.scores) == (True, False, {})
    assert "published       nmf (MNIST): 4 mixtures" in "\n".join(describe([nmf], Wishes()))
    (line, _) = lines_of(table.parts[0], [nmf, lass], {})
    assert line.note == f"published {about['date']}"
    assert line.seconds.mean == pytest.approx(0.6)
    assert lines_of(table.parts[0], [nmf, lass], {"runs/mnist/nmf": timing([3.0], "cpu")})[0].seconds.mean == 3
    assert plan(table, Wishes(published=False), {})[0].runs_now
    (more, _) = plan(table, Wishes(num_mixtures=6), {})
    assert (more.runs_now, len(more.results.scores)) == (True, 4)  # shown until the run is made
    write_results("runs/mnist/nmf", [1.0])
    assert len(plan(table, Wishes(), {})[0].results.scores) == 1  # one's own results come first
    (root / "about.json").write_text('{"date": "2026-11-28"}')
    assert "about.json is damaged" in read_published("runs/mnist/nmf").problem


def test_models_trained_here_are_run_although_results_are_published(defined):
    trained = {"needs": ["runs/mnist/dictionaries"], "train": ["make train-nmf DATASET=mnist"]}
    table = defined(row("nmf", "runs/mnist/nmf", run=trained, seconds=1))
    write_results("runs/mnist/nmf", [1.0, 2.0, 3.0, 4.0])
    publish("runs/mnist/nmf", read_results("runs/mnist/nmf"), "make eval-mnist METHOD=nmf", None)
    shutil.rmtree("runs")
    assert not plan(table, Wishes(), {})[0].runs_now
    Path("runs/mnist/dictionaries").mkdir(parents=True)
    (planned,) = plan(table, Wishes(), {})
    assert planned.runs_now
    assert "to run now      nmf (MNIST): 4 mixtures, about 24 s; published" in "\n".join(describe([planned], Wishes()))


def test_published_results_of_the_repository_are_whole_and_belong_to_rows(repository, monkeypatch):
    monkeypatch.chdir(repository)
    folders = {run.folder for key in all_tables() for p in load_table(key).parts for r in p.rows for run in r.runs}
    published = {path.parent for path in PUBLISHED.rglob("about.json")}
    assert published
    assert published <= {PUBLISHED / Path(folder).relative_to("runs") for folder in folders}
    for path in published:
        found = read_published(Path("runs") / path.relative_to(PUBLISHED))
        assert found.problem == ""
        assert len(found.scores) == len({index for index, _ in found.scores}) > 1


def test_time_of_lass_is_measured_from_its_results(chain):
    from separation_time import load, seconds_of

    method, mixtures, classes = load("runs/digits/separate", "cpu")
    assert mixtures.shape == (1, 1, 16, 16)
    assert classes is None
    estimates = method.separate_batch(mixtures, None, seed=0, indices=[0]).estimates
    stored = ResultsFolder("runs/digits/separate").read(0)[0]["estimates"]
    error = min((estimates[0] - one).square().mean() for one in (stored, stored.flip(0)))  # the best order is stored
    assert error < 1e-4
    times = seconds_of("runs/digits/separate", 2, "cpu")
    assert len(times) == 2
    assert min(times) > 0


def test_plot_shows_methods_with_score_and_time():
    column, score = Column("psnr_db", "PSNR in dB"), Estimate(20.0, 5.0, 1.0, 100)
    lines = [
        Line(Row("NMF", "blind"), {"psnr_db": score}, {}, Timing(0.1, 0.01, 0.01, 10), 100, ""),
        Line(Row("$LASS_2$", "LASS"), {"psnr_db": score}, {}, Timing(2.0, 0.1, 0.1, 10), 100, ""),
        Line(Row("no time"), {"psnr_db": score}, {}, None, 100, ""),
        Line(Row("no score"), {}, {}, Timing(2.0, 0.1, 0.1, 10), 0, ""),
    ]
    (axes,) = quality_against_seconds(lines, column, "MNIST").axes
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["NMF", "$LASS_2$"]
    points = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert points == [[[0.1, 20.0]], [[2.0, 20.0]]]
    assert quality_against_seconds(lines[2:], column, "MNIST") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "poem"}, r"of kind 'poem': expected one of scores, likelihoods, separations"),
        ({"titel": "x"}, r"has an unknown entry 'titel': expected key, title"),
        ({"parts": [{"name": "a", "dataset": "b"}]}, r"parts 1 has no entry 'rows': expected name, dataset, rows"),
        ({"parts": 3}, r"parts is 3: expected a value of type list"),
        ({"parts": [{"name": "a", "dataset": "b", "rows": [], "mixtures": -1}]}, r"mixtures must be an integer"),
        ({"parts": [{"name": "a", "dataset": "b", "rows": [], "reference": "c"}]}, r"no row 'c' to take differences"),
        ({"parts": [{"name": "a", "dataset": "b", "rows": [{"name": "c"}] * 2}]}, r"two rows of one name"),
        (
            {"parts": [{"name": "a", "dataset": "b", "rows": [row("x", "y", run={"command": "rm -r x"})]}]},
            r"has the command 'rm -r x': expected `make TARGET`",
        ),
    ],
)
def test_a_wrong_definition_is_refused(tmp_path, change, message):
    (tmp_path / "table-9.yaml").write_text(yaml.safe_dump({"title": "Methods", **change}))
    with pytest.raises(LassError, match=message):
        load_table("9", tmp_path)


def test_wrong_requests_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiments/tables").mkdir(parents=True)
    Path("experiments/tables/table-1.yaml").write_text("{")
    with pytest.raises(LassError, match=r"There is no table or figure 'table-7': expected one of table-1"):
        command_line.main(["7"])
    with pytest.raises(LassError, match=r"table-1.yaml cannot be read"):
        command_line.main(["1"])
    with pytest.raises(LassError, match=r"--mixtures must be an integer, at least 1, not 0"):
        command_line.main(["1", "--mixtures", "0"])
    with pytest.raises(LassError, match=r"--options needs DATASET=OPTIONS with a folder of experiments, not 'mnist'"):
        command_line.main(["1", "--options", "mnist=--data.root=x"])


@pytest.mark.slow
def test_the_commands_of_all_rows_run_stage_4_into_their_folders(repository, monkeypatch):
    monkeypatch.chdir(repository)
    tables = [load_table(key) for key in all_tables()]
    figures = ["figure-1", "figure-3", "figure-quality"]
    assert [table.key for table in tables] == [*(f"table-{i}" for i in range(1, 6)), *figures]
    runs = {(run.folder, run.command, run.options) for t in tables for p in t.parts for r in p.rows for run in r.runs}
    assert len(runs) > 30
    for folder, command, options in sorted(runs):
        words = shlex.split(f'{command} ARGS="{options} --data.num_mixtures=3"')
        lines = make(repository, *words[1:]).stdout.splitlines()
        (predict,) = [line for line in lines if "bin/lass predict" in line]
        config = parsed(*shlex.split(predict)[1:])
        assert config.data.init_args.num_mixtures == 3
        if folder.rpartition("/")[2] not in ("separate", "pretrained"):  # which of them depends on what was trained
            assert config.trainer.default_root_dir == folder


@pytest.mark.slow
def test_a_table_and_a_figure_are_made_from_nothing_and_only_once(repository, tmp_path, monkeypatch, capfd):
    """The row Average on a tiny MNIST, by the commands of the Makefile: separation, times, table, plot and picture."""
    monkeypatch.chdir(tmp_path)
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(repository / name, tmp_path)
    for name in ("experiments/mnist", "benchmarks"):
        shutil.copytree(repository / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name, module in {"lass": "-m lass.cli", "python": ""}.items():
        script = tmp_path / ".venv/bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        script.chmod(0o755)
    (tmp_path / ".venv/installed").touch()
    write_tiny_mnist(tmp_path / "data")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", str(repository / "src"))
    monkeypatch.delenv("VENV", raising=False)
    average = row("average", "runs/mnist/average", run={"options": "--data.mixtures=null"}, seconds=0.01)
    part = {"name": "MNIST", "dataset": "mnist", "mixtures": 4, "rows": [average]}
    columns = [{"score": "psnr_db", "title": "PSNR in dB"}]
    (tmp_path / "experiments/tables").mkdir()
    for key, entries in {
        "table-2": {"parts": [{**part, "columns": columns}]},
        "figure-3": {"kind": "separations", "parts": [{**part, "examples": 3}]},
    }.items():
        (tmp_path / f"experiments/tables/{key}.yaml").write_text(yaml.safe_dump({"title": "Methods", **entries}))

    command_line.main(["--plan"])
    assert "to run now      average (MNIST): 4 mixtures, about 20 s" in capfd.readouterr().out
    assert not Path("runs").exists()
    command_line.main([])
    said = capfd.readouterr().out
    summary = json.loads(Path("runs/mnist/average/summary.json").read_text())
    assert f"| average | {summary['psnr_db']['mean']:.2f} ± " in said
    assert Path("runs/tables/table-2-mnist.png").read_bytes().startswith(b"\x89PNG")
    assert Path("runs/tables/figure-3-mnist.png").read_bytes().startswith(b"\x89PNG")
    times = read_seconds(Path("runs/tables/seconds-mnist.json"))
    assert times["runs/mnist/average"].num == 10

    monkeypatch.setattr(command_line, "run_command", lambda command: pytest.fail(f"{command} is run again"))
    command_line.main(["2"])
    assert "complete        average (MNIST): 4 mixtures" in capfd.readouterr().out
    figure = separations(plan(load_table("figure-3"), Wishes(), {}), 3, "MNIST")
    images = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    mixture, first, second, *estimates = images[:5]
    np.testing.assert_allclose(mixture, (first + second) / 2, atol=1e-6)
    for one in estimates:
        np.testing.assert_allclose(one, mixture, atol=1e-6)
