"""Speed and memory of `separate_codes` and of counting: `make bench`, or one case: python benchmarks/bench.py
image-1.5%

All ratios are taken within one run. *ours* is `separate_codes`; the *floor* is the cached forward passes of the priors
alone, with equal sizes and precision; the *literal* is Algorithm 1 written line by line (literal.py). Each case runs in
its own process, so that its peak memory is measured separately. Numbers and the figure are written to runs/bench/.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from literal import draw_pairs, draw_pairs_among_the_best, separate_literally, without_cache
from many_sources import against_sources, draw_sources, large_codebook
from measuring import LargestTensor, PeakMemory, WatchedPrior, cached_passes, progress, seconds
from worlds import dense_likelihood, random_likelihood, random_prior, random_triples

from lass import LassError, SparseCounts, separate_codes
from lass.codecs import codebook_of, load_codec
from lass.data.images.mnist import MNIST
from lass.data.mixing import mix
from lass.likelihood import counts as counting_module
from lass.likelihood import load_likelihood
from lass.priors import load_prior
from lass.samplers import Ancestral, BeamSearch, SequentialMonteCarlo, TopK, TopP

FOLDER = Path("runs/bench")
MIB, LEFT_OUT = 2**20, 3
#: Memory of counting apart from stored triples: the buffer of keys (8 bytes each), its sorted run (16), the copy of
#: that run into its place (16), and the next batch of triples with its temporaries.
FIXED_BYTES = counting_module.BUFFER * (8 + 16 + 16) + 2**20 * 8 * 12
Rows = list[dict[str, Any]]


def engine_row(
    name: str,
    sampler,
    priors: list,
    likelihood,
    mixture_codes: torch.Tensor,
    rounds: int,
    floor_sequences: int,
) -> dict[str, Any]:
    """Measure ours and the floor in alternation; the ratio is the median over rounds."""
    num_mixtures, num_positions = mixture_codes.shape
    distinct = list({id(prior): prior for prior in priors}.values())
    ours, floor = [], []
    with progress(f"{name}: {type(sampler).__name__}"):
        watched = {id(prior): WatchedPrior(prior) for prior in priors}
        with PeakMemory() as memory, LargestTensor() as largest:
            for prior in watched.values():
                prior.untold = largest  # exclude the prior's own tensors, in particular its cache
            watched_priors = [watched[id(prior)] for prior in priors]
            watched_s = seconds(lambda: separate_codes(mixture_codes, watched_priors, likelihood, sampler))
        for _ in range(rounds):
            floor.append(num_mixtures * seconds(lambda: cached_passes(distinct, floor_sequences, num_positions)))
            # Instrumentation costs one or two percent: if one round takes minutes, the instrumented run is used.
            separate = functools.partial(separate_codes, mixture_codes, priors, likelihood, sampler)
            ours.append(seconds(separate) if rounds > 1 else watched_s)
    num_rows = num_mixtures * num_positions * len(distinct) * floor_sequences
    return {
        "case": name,
        "sampler": type(sampler).__name__,
        "rounds": rounds,
        "ours_s": statistics.median(ours) / num_mixtures,
        "floor_s": statistics.median(floor) / num_mixtures,
        "ours_to_floor": statistics.median(a / b for a, b in zip(ours, floor, strict=True)),
        "rows_computed": sum(prior.num_rows for prior in watched.values()) / num_rows,
        # As a fraction of the entries that are moved if every row is moved at every position.
        "entries_moved": sum(prior.num_moved for prior in watched.values()) / (num_rows * num_positions / 2),
        "largest_temporary_mib": largest.bytes / MIB,
        "peak_mib": memory.added / MIB,
    }


def image(density: float) -> Rows:
    """K 256, T 49, 512 candidates, the reference prior; also the literal Algorithm 1."""
    prior, likelihood = random_prior(256, 49, 3, 128, 2), random_likelihood(256, density)
    codes = torch.randint(256, (1, 49), generator=torch.Generator().manual_seed(1))
    rows = []
    for sampler in (Ancestral(512), SequentialMonteCarlo(512), TopK(512, 32), TopP(512, 0.9)):
        rows.append(engine_row(f"image {density:.1%}", sampler, [prior] * 2, likelihood, codes, 7, 2 * 512))
    dense, slow = dense_likelihood(likelihood), without_cache(prior)
    for row, choose in ((rows[0], draw_pairs), (rows[2], draw_pairs_among_the_best)):
        with progress(f"image {density:.1%}: the literal Algorithm 1, {row['sampler']}"):
            literal = functools.partial(separate_literally, codes[0], [slow, slow], dense, 512, choose)
            row["literal_s"] = seconds(literal)
        row["literal_to_ours"] = row["literal_s"] / row["ours_s"]
    return rows


def faces() -> Rows:
    """K 512, T 64, density 6 %, 512 candidates, four mixtures at once."""
    prior, likelihood = random_prior(512, 64, 3, 128, 2), random_likelihood(512, 0.06)
    codes = torch.randint(512, (4, 64), generator=torch.Generator().manual_seed(1))
    return [
        engine_row("faces 6%", sampler, [prior] * 2, likelihood, codes, 3, 2 * 512)
        for sampler in (Ancestral(512), SequentialMonteCarlo(512), TopK(512, 32))
    ]


def audio(num_positions: int) -> Rows:
    """K 2048, 100 beams, two priors of 6 layers × width 512, density 0.076 %."""
    priors = [random_prior(2048, num_positions, 6, 512, 8) for _ in range(2)]
    likelihood = random_likelihood(2048, 0.00076)
    codes = torch.randint(2048, (1, num_positions), generator=torch.Generator().manual_seed(1))
    return [engine_row(f"audio {num_positions}", BeamSearch(100), priors, likelihood, codes, 1, 100)]


def imagenet() -> Rows:
    """K 16384: 1.7e8 non-zeros counted from triples, normalised, and 256 positions with 64 candidates."""
    row: dict[str, Any] = {"case": "ImageNet size"}
    with PeakMemory() as memory:
        counts, triples = SparseCounts(16384), random_triples(16384, 2**20, repeating=False)
        start = time.perf_counter()
        with progress("ImageNet size: counting"):
            for _ in range(82):  # × 2²⁰
                counts.add(*next(triples))
            row["num_nonzero"], row["density_percent"] = counts.num_nonzero, 100 * counts.density
        row["counting_s"] = time.perf_counter() - start
        with progress("ImageNet size: likelihood"):
            start = time.perf_counter()
            likelihood = counts.likelihood()
            row["normalize_s"] = time.perf_counter() - start
        with progress("ImageNet size: saving and mapping"):
            path = FOLDER / "likelihood.safetensors"
            likelihood.save(path)
            start = time.perf_counter()
            likelihood = type(likelihood).load(path)
            row["load_s"] = time.perf_counter() - start
        del counts
        prior = random_prior(16384, 256, 3, 128, 2)
        codes = torch.randint(16384, (1, 256), generator=torch.Generator().manual_seed(1))
        row |= engine_row("ImageNet size", SequentialMonteCarlo(64), [prior] * 2, likelihood, codes, 1, 128)
    path.unlink()
    row["peak_gib"] = memory.peak / 2**30
    return [row]


def mnist() -> Rows:
    """Eight validation mixtures with the shipped models, to measure how often real candidates share a past."""
    codec, prior = load_codec("pretrained/mnist/codec"), load_prior("pretrained/mnist/prior")
    likelihood = load_likelihood("pretrained/mnist/counts.safetensors", codebook=codebook_of(codec))
    data = MNIST(batch_size=8, predict_split="validation", num_mixtures=8)
    with torch.no_grad():
        codes = codec.encode(mix(next(iter(data.predict_dataloader())).signals)).flatten(1)
    return [
        engine_row("real MNIST", sampler, [prior] * 2, likelihood, codes, 2, 2 * 512)
        for sampler in (Ancestral(512), SequentialMonteCarlo(512), TopK(512, 32))
    ]


def counting(num_codes: int) -> Rows:
    """Triples per second, without their generation, and memory per stored non-zero; 96 × 2²⁰ triples."""
    rows = []
    for kind, repeating in (("repeating", True), ("all distinct", False)):
        triples = random_triples(num_codes, 2**20, repeating)
        counts, spent, speeds, num = SparseCounts(num_codes), 0.0, [], 0
        prepared = next(triples)
        with progress(f"counting, K {num_codes}, {kind}"), PeakMemory() as memory:
            for _ in range(96):
                spent += seconds(functools.partial(counts.add, *prepared))
                num += 2**20
                speeds.append(num / spent)
                prepared = next(triples)
            spent += seconds(counts.compact)
        stored = len(counts.state_dict()["keys"])
        rows.append(
            {
                "case": f"counting K {num_codes}, {kind}",
                "triples": num,
                "stored": stored,
                "million_triples_per_s": num / spent / 1e6,
                "after_a_quarter": speeds[23] / 1e6,
                "after_a_half": speeds[47] / 1e6,
                "peak_mib": memory.added / MIB,
                "allowed_mib": (24 * stored + FIXED_BYTES) / MIB,
                "bytes_per_stored": (memory.added - FIXED_BYTES) / stored,
            }
        )
    return rows


def growth() -> Rows:
    """Time of ours and of the floor as a function of one size at a time; the other sizes are fixed."""
    sizes = {
        "candidates": (64, 128, 256, 512, 1024),
        "mixtures": (1, 2, 4),
        "code positions": (12, 24, 49, 98),
        "non-zeros per mixture code": (300, 1000, 3000, 10000, 30000),
    }
    rows = []
    for what, values in sizes.items():
        for value in values:
            size = {"candidates": 256, "mixtures": 1, "code positions": 49, "non-zeros per mixture code": 1000}
            size[what] = value
            prior = random_prior(256, size["code positions"], 3, 128, 2)
            likelihood = random_likelihood(256, size["non-zeros per mixture code"] / 256**2)
            shape = (size["mixtures"], size["code positions"])
            codes = torch.randint(256, shape, generator=torch.Generator().manual_seed(1))
            for sampler in (Ancestral(size["candidates"]), SequentialMonteCarlo(size["candidates"])):
                name = f"growth, {value} {what}"
                row = engine_row(name, sampler, [prior] * 2, likelihood, codes, 2, 2 * size["candidates"])
                total = {key: row[key] * size["mixtures"] for key in ("ours_s", "floor_s")}
                rows.append({**row, **total, "against": what, "value": value})
    return rows


CASES: dict[str, Callable[[], Rows]] = {
    "image-1.5%": lambda: image(0.015),
    "image-5.4%": lambda: image(0.054),
    "faces": faces,
    "audio-516": lambda: audio(516),
    "audio-1034": lambda: audio(1034),
    "imagenet": imagenet,
    "counting-256": lambda: counting(256),
    "counting-2048": lambda: counting(2048),
    "counting-16384": lambda: counting(16384),
    "growth": growth,
    "sources": against_sources,
    "sources-16384": large_codebook,
    "mnist": mnist,
}

COLUMNS = {
    "case": "case",
    "sources": "sources",
    "sampler": "sampler",
    "rounds": "rounds",
    "ours_s": "ours, s per mixture",
    "to_three_sources": "ours / ours with 3 sources",
    "floor_s": "floor, s",
    "ours_to_floor": "ours / floor",
    "literal_to_ours": "literal / ours",
    "rows_computed": "rows computed",
    "entries_moved": "cache moved",
    "largest_temporary_mib": "largest temporary, MiB",
    "cache_mib": "priors' caches, MiB",
    "peak_gib": "peak, GiB",
    "triples": "triples",
    "stored": "stored",
    "million_triples_per_s": "million triples / s",
    "after_a_quarter": "after a quarter",
    "after_a_half": "after a half",
    "peak_mib": "peak, MiB",
    "allowed_mib": "24 bytes each and the fixed part, MiB",
    "normalize_s": "normalising, s",
    "load_s": "loading, s",
    "counting_s": "counting, s",
    "num_nonzero": "non-zeros",
}


def table(rows: Rows) -> str:
    """Format rows as Markdown, with the columns that occur in any row."""
    columns = [name for name in COLUMNS if any(name in row for row in rows)]

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
        return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

    lines = ["| " + " | ".join(COLUMNS[name] for name in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def draw_growth(rows: Rows, path: Path) -> None:
    """Plot ours and the floor, one panel per size."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(row["against"] for row in rows))
    figure = Figure(figsize=(3.2 * len(sizes), 3.2), layout="constrained")
    for axes, what in zip(figure.subplots(1, len(sizes), sharey=True), sizes, strict=True):
        for sampler in dict.fromkeys(row["sampler"] for row in rows):
            chosen = [row for row in rows if row["against"] == what and row["sampler"] == sampler]
            axes.plot([row["value"] for row in chosen], [row["ours_s"] for row in chosen], "o-", label=sampler)
        axes.plot([r["value"] for r in chosen], [r["floor_s"] for r in chosen], "k--", label="floor: priors alone")
        axes.set(xscale="log", yscale="log", xlabel=what)
        values = [row["value"] for row in chosen]
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.minorticks_off()
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel("seconds")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run one case and print its rows as JSON, or run all cases in subprocesses and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)}; default all")
    parser.add_argument("--json", action="store_true", help="run the one case here, and print what it measured as JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"there is no case {', '.join(unknown)}: expected some of {', '.join(CASES)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.json:
        try:
            print(json.dumps(CASES[arguments.cases[0]]()))
        except LassError as error:  # the MNIST case needs models and data
            print(f"  {arguments.cases[0]} is left out: {error}", file=sys.stderr)
            sys.exit(LEFT_OUT)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}", file=sys.stderr)
    for case in arguments.cases or CASES:
        command = [sys.executable, __file__, "--json", case]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if run.returncode == LEFT_OUT:
            continue
        run.check_returncode()
        rows = json.loads(run.stdout)
        (FOLDER / f"{case.replace('%', '')}.json").write_text(json.dumps(rows, indent=2) + "\n")
        if case == "growth":
            draw_growth(rows, FOLDER / "growth.png")
        if case == "sources":
            draw_sources(rows, FOLDER / "sources.png")
        print(table(rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
