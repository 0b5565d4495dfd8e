"""Base data module of audio datasets: non-silent chunks of songs, aligned or random tuples, stored mixtures."""

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
from lass.data.module import MAX_SOURCES, SourceDataModule, Split
from lass.data.tuple_samplers import ClassTuples
from lass.errors import LassError, check_number

MAX_SECONDS = 3600.0  # maximum length of a chunk
TRAINED_ON = "least_active is for the mixtures of stage 4; training needs sources that sound: leave it out."
SILENCE_DB = -45.0  # RMS in dB of full scale; about 25 dB below a playing stem of Slakh


class AudioDataModule(SourceDataModule):
    """Base data module of songs with stems of two or more classes; subclasses define `songs`.

    Args:
        root: Folder of the dataset.
        classes: Names of the S classes to separate, two or more; a mixture has one source of each, in this order.
        source: Load only chunks of this class, one of `classes`, to train its prior; null for all classes.
        sample_rate: Sample rate in Hz to which all files are resampled.
        seconds: Length of a chunk in seconds.
        hop_seconds: Distance between the starts of successive training chunks in seconds, so that chunks overlap if it
            is less than `seconds`; null for `seconds`. Validation and test chunks never overlap.
        silence_db: RMS threshold in dB of full scale; quieter chunks are left out.
        pairing: Training tuples are chunks of one song and time ("aligned") or any chunks ("random").
        cache: Folder of the index of chunks.
        batch_size: Number of chunks, tuples or mixtures per batch.
        tuples: Load tuples of one chunk per class for training and validation, as estimating the likelihood requires.
        weights: Weight of each class in a mixture, S positive numbers; null for the mean, 1/S each. Their sum must not
            exceed 1, so that mixtures stay in [-1, 1], full scale, to which audio files are clipped.
        split_seed: Seed of the choice of mixtures and of the order of chunks.
        predict_split: Split whose mixtures `lass predict` separates. Mixtures are aligned: non-silent chunks of all
            classes from one song and time.
        mixtures: Path of a CSV file with stored test mixtures, `mixture,song,start_seconds`; null draws them.
        most_mixtures: Maximum number of mixtures to draw with `split_seed` and to store in `cache`; 450 in the paper.
        num_mixtures: Number of mixtures to separate, from the start of the list; null for all.
        least_active: Minimum number of classes of a mixture to separate that are not silent, two or more. The others
            are read as they are: at most as loud as `silence_db`, or zeros in a song without such a stem. null for all.
        num_workers: Number of worker processes that read chunks.

    Raises:
        LassError: if an argument is outside its limits, or if `least_active` is given with `source` or `tuples`.

    Source: LASS (arXiv:2301.08562), section "Music Source Separation"; `least_active`: Mariani et al. 2023
    (arXiv:2302.02257).
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
        tuples: bool = False,
        weights: list[float] | None = None,
        split_seed: int = 0,
        predict_split: Literal["test", "validation"] = "test",
        mixtures: str | None = None,
        most_mixtures: int = 450,
        num_mixtures: int | None = None,
        num_workers: int = 0,
        least_active: int | None = None,
    ) -> None:
        named = ", ".join(map(str, classes))
        if not 2 <= len(classes) <= MAX_SOURCES or len(set(classes)) != len(classes):
            raise LassError(f"classes must name two to {MAX_SOURCES} different classes, not {named}.")
        super().__init__(
            batch_size,
            tuples,
            len(classes),
            weights,
            split_seed,
            predict_split,
            mixtures,
            num_mixtures,
            num_workers,
        )
        self.root, self.classes, self.source, self.cache = Path(root), list(classes), source, Path(cache)
        if source is not None and source not in self.classes:
            raise LassError(f"source must be one of classes ({named}), not {source!r}: add it to classes.")
        if source is not None and tuples:
            raise LassError("Tuples need chunks of all classes: leave out source.")
        if pairing not in ("aligned", "random"):
            raise LassError(f"pairing must be aligned or random, not {pairing!r}.")
        check_number("sample_rate", sample_rate, at_least=1, at_most=HIGHEST_RATE, whole=True)
        check_number("seconds", seconds, above=0, at_most=MAX_SECONDS)
        if hop_seconds is not None:
            check_number("hop_seconds", hop_seconds, above=0, at_most=MAX_SECONDS)
        check_number("silence_db", silence_db, at_most=0)
        check_number("most_mixtures", most_mixtures, at_least=1, whole=True)
        if least_active is not None:
            check_number("least_active", least_active, at_least=2, at_most=len(classes), whole=True)
            if source is not None or tuples:
                raise LassError(TRAINED_ON)
        self.sample_rate, self.silence_db, self.pairing = sample_rate, silence_db, pairing
        self.num_samples = round(seconds * sample_rate)
        self.hop = self.num_samples if hop_seconds is None else round(hop_seconds * sample_rate)
        if not self.num_samples or not self.hop:
            raise LassError(f"Chunks of {seconds} s with a hop of {hop_seconds} s are shorter than a sample.")
        self.most_mixtures, self.least_active = most_mixtures, least_active
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

    def setup(self, stage: str) -> None:
        """See `SourceDataModule`; `least_active` is refused in training."""
        if stage != "predict" and self.least_active is not None:
            raise LassError(TRAINED_ON)
        super().setup(stage)

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
            if name == self.predict_split and self.least_active is not None:
                chunks += self._silent_beside(chunks, self.least_active)
            order = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(self.split_seed))
            chunks = [chunks[i] for i in order.tolist()]
            self._parts[name] = AudioChunks(
                self._named_songs(name), chunks, self.classes, self.sample_rate, self.num_samples
            )
        return self._parts[name]

    def identity(self, part: Split) -> str:
        """See `SourceDataModule`."""
        return f"{self._index_file(part).stem}-{self.source or 'all'}"

    def fresh_tuples(self, num_ranks: int, rank: int, seed: int) -> ClassTuples:
        """Sampler of tuples of one chunk per class, aligned or random."""
        aligned = self.pairing == "aligned"
        positions = self._aligned("train") if aligned else self._by_class("train")
        return ClassTuples(positions, aligned, num_ranks, rank, seed)

    def validation_tuples(self) -> Int[Tensor, "tuples num_sources"]:
        """Aligned tuples, as for mixtures, (tuples, num_sources)."""
        return torch.tensor(self._aligned("validation")).T

    def mixture_tuples(self) -> Int[Tensor, "mixtures num_sources"]:
        """Aligned tuples of each mixture, (mixtures, num_sources).

        Read from a stored list, or drawn with `split_seed` and stored in `cache`.
        """
        tuples = torch.tensor(self._aligned(self.predict_split)).T
        chunks = self.part(self.predict_split).chunks
        available = [(chunks[i].song, chunks[i].start) for i in tuples[:, 0].tolist()]
        path = Path(self.mixtures) if self.mixtures and self.predict_split == "test" else self._mixtures_file
        if path != self._mixtures_file or path.is_file():
            position = {place: i for i, place in enumerate(available)}
            places = read_places(path)
            samples = [(song, _nearest(start * self.sample_rate)) for song, start in places]
            found = [None if start is None else position.get((song, start)) for song, start in samples]
            if None in found:
                song, start = places[found.index(None)]
                raise LassError(
                    f"{path} names {song!r:.120} at {start:g} s, where {' and '.join(self.classes)} do not all sound "
                    "in a chunk of this data: it belongs to another dataset or other settings."
                )
            chosen = [i for i in found if i is not None]
        else:
            chosen = list(range(min(self.most_mixtures, len(tuples))))  # a random choice, because chunks are shuffled
            write_places(path, [(song, start / self.sample_rate) for song, start in available[: len(chosen)]])
        return tuples[chosen]

    def _silent_beside(self, chunks: list[Chunk], least_active: int) -> list[Chunk]:
        """Chunks of the silent classes at the songs and times where at least `least_active` others sound."""
        sounding: dict[tuple[str, int], set[int]] = {}
        for chunk in chunks:
            sounding.setdefault((chunk.song, chunk.start), set()).add(chunk.label)
        return [
            Chunk(*place, label)
            for place, labels in sounding.items()
            if len(labels) >= least_active
            for label in range(self.num_sources)
            if label not in labels
        ]

    def _by_class(self, part: Split) -> list[list[int]]:
        """Positions of the chunks of each class."""
        chunks = self.part(part).chunks
        return [[i for i, chunk in enumerate(chunks) if chunk.label == label] for label in range(self.num_sources)]

    def _aligned(self, part: Split) -> list[list[int]]:
        """Positions of the chunks of each class at the songs and times that have one of every class, in one order.

        All classes sound there; with `least_active`, at least as many.
        """
        chunks = self.part(part).chunks
        by_place = [{(chunks[i].song, chunks[i].start): i for i in positions} for positions in self._by_class(part)]
        common = [place for place in by_place[0] if all(place in of_class for of_class in by_place)]
        if not common:
            fewer = "" if self.least_active is None else f"at least {self.least_active} of "
            raise LassError(
                f"In no {part} chunk in {self.root} {fewer}{' and '.join(self.classes)} all sound: expected some to "
                "mix."
            )
        return [[of_class[place] for place in common] for of_class in by_place]

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
        active = "" if self.least_active is None else f"-{self.least_active}-active"
        return self.cache / f"{stem}{active}-{self.most_mixtures}-mixtures-{self.split_seed}.csv"

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
