"""Slakh2100, or another dataset in its layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lass.data.audio.module import AudioDataModule, Song
from lass.data.module import Split
from lass.errors import LassError, path_component

#: Loader of libyaml, ten times as fast, where PyYAML was built with it.
SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

METADATA, STEMS = "metadata.yaml", "stems"
FOLDERS = ("slakh2100_flac_redux", "slakh2100_redux_16k", "slakh_like", "babyslakh_16k")  # searched in DATA_ROOT
SPLITS = ("train", "validation", "test")
NUM_NAMED = 3  # number of missing files named in an error message


class Slakh(AudioDataModule):
    """Slakh2100, songs of synthesised instruments.

    Layout: `train|validation|test/TrackNNNNN/metadata.yaml` and `stems/SNN.flac` (or wav). The stems of an instrument
    class are summed. Stems that `metadata.yaml` lists as not rendered are left out. Without folders of splits, as in
    BabySlakh, the last tenth of the tracks is the test split and the tenth before it the validation split.

    Args:
        root: Folder that contains `train`, `validation` and `test`; default the first of `slakh2100_flac_redux`,
            `slakh2100_redux_16k`, `slakh_like`, `babyslakh_16k` in the folder given by the environment variable
            DATA_ROOT.
        classes: Two or more instrument classes (`inst_class` in `metadata.yaml`), in upper or lower case.
        source: See `AudioDataModule`; in upper or lower case.
        kwargs: Arguments of `AudioDataModule`.

    Source: Manilow et al. 2019 (arXiv:1909.08494); LASS (arXiv:2301.08562), section "Music Source Separation".
    """

    def __init__(
        self,
        root: str | None = None,
        classes: Sequence[str] = ("drums", "bass"),
        source: str | None = None,
        **kwargs,
    ) -> None:
        lower = [name.lower() for name in classes]
        super().__init__(str(root or _default_root()), lower, None if source is None else source.lower(), **kwargs)

    def songs(self, split: Split) -> list[Song]:
        """All tracks of a split that have a stem of one of the classes."""
        folder, tracks = self.root / split, []
        if folder.is_dir():
            tracks = sorted(path.parent for path in folder.glob(f"*/{METADATA}"))
        elif not any((self.root / other).is_dir() for other in SPLITS):
            tracks = _share_of(split, sorted(path.parent for path in self.root.glob(f"*/{METADATA}")))
        if not tracks:
            raise LassError(
                f"There are no {split} tracks at {folder}: get slakh2100_flac_redux.tar.gz from "
                "https://zenodo.org/records/4599666, unpack it, and set DATA_ROOT to the folder that it lies in, "
                "or name it with --data.root."
            )
        songs = [self._song(track) for track in tracks]
        if not any(song.stems for song in songs):
            raise LassError(f"None of the {len(tracks)} tracks in {folder} has a stem of {' or '.join(self.classes)}.")
        absent = [str(file) for song in songs for files in song.stems.values() for file in files if not file.is_file()]
        if absent:
            named = ", ".join(absent[:NUM_NAMED]) + (" …" if len(absent) > NUM_NAMED else "")
            raise LassError(f"{len(absent)} stems in {folder} are missing ({named}): unpack the dataset again.")
        return [song for song in songs if song.stems]

    def _song(self, track: Path) -> Song:
        try:
            listed = yaml.load((track / METADATA).read_bytes(), Loader=SafeLoader)["stems"]
            stems: dict[str, list[Path]] = {}
            for name, stem in listed.items():
                instrument = str(stem["inst_class"]).lower()
                if instrument in self.classes and stem.get("audio_rendered", True):
                    name = path_component(name, track / METADATA)
                    flac, wav = (track / STEMS / f"{name}.{suffix}" for suffix in ("flac", "wav"))
                    stems.setdefault(instrument, []).append(wav if wav.is_file() else flac)
        except LassError:
            raise
        # ValueError: e.g. an invalid date; RecursionError: lists nested too deep.
        except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LassError(f"{track / METADATA} does not list stems with their inst_class: {error!r:.300}.") from error
        return Song(track.name, stems)


def _share_of(split: Split, tracks: list[Path]) -> list[Path]:
    tenth = max(1, len(tracks) // 10)
    shares = {"train": tracks[: -2 * tenth], "validation": tracks[-2 * tenth : -tenth], "test": tracks[-tenth:]}
    return shares[split]


def _default_root() -> Path:
    folders = [Path(os.environ.get("DATA_ROOT", "data")) / name for name in FOLDERS]
    return next((folder for folder in folders if folder.is_dir()), folders[0])
