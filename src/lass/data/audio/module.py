"""Base data module of audio datasets: non-silent chunks of songs, aligned or random pairs, stored mixtures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from lass.artifacts import write_json
from lass.data.audio.chunks import AudioChunks, Chunk, Song, find_chunks, read_index
from lass.data.audio.files import HIGHEST_RATE
from lass.data.mixture_lists import read_places, write_places
from lass.data.module import SourceDataModule, Split
from lass.data.pair_samplers import ClassPairing
from lass.errors import LassError, check_number

MAX_SECONDS = 3600.0  # maximum length of a chunk
SILENCE_DB = -45.0  # RMS in dB of full scale; about 25 dB below a playing stem of Slakh


class AudioDataModule(SourceDataModule):
    """Base data module of songs with stems of two classes; subclasses define `songs`.

    Args:
        root: Folder of the dataset.
        classes: Names of the two classes to separate.
        source: Load only chunks of this class, to train its prior; null for both classes.
        sample_rate: Sample rate in Hz to which all files are resampled.
        seconds: Length of a chunk in seconds.
        hop_seconds: Distance between the starts of successive training chunks in seconds, so that chunks overlap if it
            is less than `seconds`; null for `seconds`. Validation and test chunks never overlap.
        silence_db: RMS threshold in dB of full scale; quieter chunks are left out.
        pairing: Training pairs are chunks of one song and time ("aligned") or any two chunks ("random").
        cache: Folder of the index of chunks.
        batch_size: Number of chunks, pairs or mixtures per batch.
        pairs: Load pairs of one chunk per class for training and validation, as estimating the likelihood requires.
        split_seed: Seed of the choice of mixtures and of the order of chunks.
        predict_split: Split whose mixtures `lass predict` separates. Mixtures are aligned: non-silent chunks of both
            classes from one song and time.
        mixtures: Path of a CSV file with stored test mixtures, `mixture,song,start_seconds`; null draws them.
        most_mixtures: Maximum number of mixtures to draw with `split_seed` and to store in `cache`; 450 in the paper.
        num_mixtures: Number of mixtures to separate, from the start of the list; null for all.
        num_workers: Number of worker processes that read chunks.

    Source: LASS (arXiv:2301.08562), section "Music Source Separation".
    """

    what = "chunks"

    def __init__(
        self,
        root: str,
        classes: Sequence[str],
        source: str | None = None,
        sample_rate: int = 22050,
        seconds: float = 3.0,
        hop_seconds: float | None = None,
        silence_db: float = SILENCE_DB,
        pairing: Literal["aligned", "random"] = "aligned",
        cache: str = "data/cache",
        batch_size: int = 16,
        pairs: bool = False,
        split_seed: int = 0,
        predict_split: Literal["test", "validation"] = "test",
        mixtures: str | None = None,
        most_mixtures: int = 450,
        num_mixtures: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, pairs, split_seed, predict_split, mixtures, num_mixtures, num_workers)
        self.root, self.classes, self.source, self.cache = Path(root), list(classes), source, Path(cache)
        if len(self.classes) != 2 or len(set(self.classes)) != 2:
            raise LassError(f"classes must name two classes to be told apart, not {', '.join(map(str, self.classes))}.")
        if source is not None and source not in self.classes:
            raise LassError(f"source must be one of {', '.join(self.classes)}, not {source!r}.")
        if source is not None and pairs:
            raise LassError("Pairs need chunks of both classes: leave out source.")
        if pairing not in ("aligned", "random"):
            raise LassError(f"pairing must be aligned or random, not {pairing!r}.")
        check_number("sample_rate", sample_rate, at_least=1, at_most=HIGHEST_RATE, whole=True)
        check_number("seconds", seconds, above=0, at_most=MAX_SECONDS)
        if hop_seconds is not None:
            check_number("hop_seconds", hop_seconds, above=0, at_most=MAX_SECONDS)
        check_number("silence_db", silence_db, at_most=0)
        check_number("most_mixtures", most_mixtures, at_least=1, whole=True)
        self.sample_rate, self.silence_db, self.pairing = sample_rate, silence_db, pairing
        self.num_samples = round(seconds * sample_rate)
        self.hop = self.num_samples if hop_seconds is None else round(hop_seconds * sample_rate)
        if not self.num_samples or not self.hop:
            raise LassError(f"Chunks of {seconds} s with a hop of {hop_seconds} s are shorter than a sample.")
        self.most_mixtures = most_mixtures
        self._songs: dict[Split, dict[str, Song]] = {}
        self._parts: dict[Split, AudioChunks] = {}

    def songs(self, split: Split) -> list[Song]:
        """Songs of a split."""
        raise NotImplementedError(f"{type(self).__name__} must define songs()")

    def prepare_data(self) -> None:
        """Build the index of non-silent chunks of the splits in use; Lightning calls this on one process only."""
        separating = self.trainer is not None and self.trainer.state.fn == "predict"
        for part in (self.predict_split,) if separating else ("train", "validation"):
            self._index(part)

    def part(self, name: Split) -> AudioChunks:
        """Chunks of a split, shuffled with `split_seed` so that successive chunks come from different songs."""
        if name not in self._parts:
            chunks = [chunk for chunk in self._index(name) if self.source in (None, self.classes[chunk.label])]
            missing = {self.source or each for each in self.classes}
            missing -= {self.classes[chunk.label] for chunk in chunks}
            if missing:
                raise LassError(
                    f"The {name} songs in {self.root} have no chunk of {self.num_samples / self.sample_rate:g} s in "
                    f"which {' or '.join(sorted(missing))} is louder than {self.silence_db} dB."
                )
            order = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(self.split_seed))
            chunks = [chunks[i] for i in order.tolist()]
            self._parts[name] = AudioChunks(
                self._named_songs(name), chunks, self.classes, self.sample_rate, self.num_samples
            )
        return self._parts[name]

    def identity(self, part: Split) -> str:
        """See `SourceDataModule`."""
        return f"{self._index_file(part).stem}-{self.source or 'all'}"

    def fresh_pairs(self, num_ranks: int, rank: int, seed: int) -> ClassPairing:
        """Sampler of pairs of one chunk per class, aligned or random."""
        aligned = self.pairing == "aligned"
        first, second = self._aligned("train") if aligned else self._by_class("train")
        return ClassPairing(first, second, aligned, num_ranks, rank, seed)

    def validation_pairs(self) -> Int[Tensor, "pairs 2"]:
        """Aligned pairs, as for mixtures, (pairs, 2)."""
        return torch.tensor(self._aligned("validation")).T

    def mixture_pairs(self) -> Int[Tensor, "mixtures 2"]:
        """Aligned pairs, read from a stored list, or drawn with `split_seed` and stored in `cache`, (mixtures, 2)."""
        first, second = self._aligned(self.predict_split)
        chunks = self.part(self.predict_split).chunks
        path = Path(self.mixtures) if self.mixtures and self.predict_split == "test" else self._mixtures_file
        if path != self._mixtures_file or path.is_file():
            position = {(chunks[i].song, chunks[i].start): pair for pair, i in enumerate(first)}
            places = read_places(path)
            samples = [(song, _nearest(start * self.sample_rate)) for song, start in places]
            found = [None if start is None else position.get((song, start)) for song, start in samples]
            if None in found:
                song, start = places[found.index(None)]
                raise LassError(
                    f"{path} names {song!r:.120} at {start:g} s, where {' and '.join(self.classes)} do not both sound "
                    "in a chunk of this data: it belongs to another dataset or other settings."
                )
            chosen = [pair for pair in found if pair is not None]
        else:
            chosen = list(range(min(self.most_mixtures, len(first))))  # a random choice, because chunks are shuffled
            write_places(path, [(chunks[first[i]].song, chunks[first[i]].start / self.sample_rate) for i in chosen])
        return torch.tensor([first, second]).T[chosen]

    def _by_class(self, part: Split) -> tuple[list[int], list[int]]:
        chunks = self.part(part).chunks
        first, second = ([i for i, chunk in enumerate(chunks) if chunk.label == label] for label in (0, 1))
        return first, second

    def _aligned(self, part: Split) -> tuple[list[int], list[int]]:
        chunks = self.part(part).chunks
        first, second = (
            {(chunks[i].song, chunks[i].start): i for i in positions} for positions in self._by_class(part)
        )
        both = [place for place in first if place in second]
        if not both:
            raise LassError(
                f"In no {part} chunk in {self.root} both {' and '.join(self.classes)} sound: expected some to mix."
            )
        return [first[place] for place in both], [second[place] for place in both]

    def _index_file(self, part: Split) -> Path:
        hop = self.hop if part == "train" else self.num_samples
        stems = [
            (song.name, [(name, list(map(_identity, files))) for name, files in sorted(song.stems.items())])
            for song in self._named_songs(part).values()
        ]
        choice = (self.classes, self.sample_rate, self.num_samples, hop, self.silence_db, stems)
        digest = hashlib.sha256(repr(choice).encode()).hexdigest()[:8]
        return self.cache / f"{type(self).__name__.lower()}-{part}-{digest}.json"

    @property
    def _mixtures_file(self) -> Path:
        stem = self._index_file(self.predict_split).stem
        return self.cache / f"{stem}-{self.most_mixtures}-mixtures-{self.split_seed}.csv"

    def _named_songs(self, part: Split) -> dict[str, Song]:
        if part not in self._songs:
            self._songs[part] = {song.name: song for song in self.songs(part)}
        return self._songs[part]

    def _index(self, part: Split) -> list[Chunk]:
        path, songs = self._index_file(part), self._named_songs(part)
        hop = self.hop if part == "train" else self.num_samples
        chunks = read_index(path, songs, self.classes, hop)
        if chunks is None:

            def find(song: Song) -> list[Chunk]:
                return find_chunks(song, self.classes, self.sample_rate, self.num_samples, hop, self.silence_db)

            with ThreadPoolExecutor() as threads:  # reading and resampling release the GIL
                results = threads.map(find, songs.values())
                found = list(tqdm(results, f"Looking for silence in {part} songs", len(songs)))
            chunks = sorted((chunk for of_song in found for chunk in of_song), key=lambda chunk: chunk.label)
            write_json(path, {"chunks": chunks})
        return chunks


def _identity(file: Path) -> tuple[str, int, int]:
    """Path, size in bytes and modification time in ns of a file; a change invalidates the index of its song."""
    facts = file.stat()
    return str(file.resolve()), facts.st_size, facts.st_mtime_ns


def _nearest(start: float) -> int | None:
    return round(start) if math.isfinite(start) else None
