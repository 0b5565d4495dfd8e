"""Data module of encoded sources: code sequences, computed once before the first epoch and memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader, DistributedSampler
from tqdm.auto import tqdm

from lass.artifacts import fingerprint
from lass.codecs import load_codec
from lass.data.codes import CodeSequences, CodeShard, write_codes
from lass.data.loading import ResumableLoader
from lass.data.module import SourceDataModule, Split, check_batch, check_sample_rate
from lass.data.sources import identity_collate
from lass.errors import LassError, check_number
from lass.tasks.trainer import is_dry_run

PARTS: tuple[Split, ...] = ("train", "validation")


class EncodedSources(LightningDataModule):
    """Code sequences of the training and validation sources of another data module.

    Args:
        sources: Data module of the signals.
        codec: Folder of the codec.
        batch_size: Number of sequences in a batch.
    """

    def __init__(self, sources: SourceDataModule, codec: str, batch_size: int = 128) -> None:
        super().__init__()
        check_number("batch_size", batch_size, at_least=1, whole=True)
        self.sources, self.codec_folder, self.batch_size = sources, codec, batch_size
        self.codec = cast(Any, load_codec(codec))  # an Artifact that implements Codec
        self.codec_fingerprint = fingerprint(self.codec)
        check_sample_rate(sources, self.codec)
        self._temporary: TemporaryDirectory | None = None  # replaces the run's folder in a dry run
        self._folder = Path()  # of the shards; known when the trainer is

    @property
    def _run(self) -> Trainer:
        """The trainer, which Lightning attaches before it calls any hook."""
        assert self.trainer is not None
        return self.trainer

    def prepare_data(self) -> None:
        """Encode the parts (training, validation) whose file is missing or damaged; on one process only."""
        self.sources.prepare_data()
        self._folder = Path(self._run.default_root_dir) / "codes"
        missing = [part for part in PARTS if not self._is_encoded(part)]
        if missing and is_dry_run(self._run):
            self._temporary = TemporaryDirectory()
            self._folder, missing = Path(self._temporary.name), list(PARTS)
        for part in missing:
            write_codes(self._path(part), self._encode(part))

    def setup(self, stage: str) -> None:
        """Map the files of codes into memory."""
        self._folder = self._run.strategy.broadcast(self._folder)
        self._shards = {part: CodeShard(self._path(part), self.codec.num_codes) for part in PARTS}

    def teardown(self, stage: str) -> None:
        """Delete the temporary files of a dry run."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def train_dataloader(self) -> DataLoader:
        """Return shuffled code sequences, in an order determined by seed and epoch."""
        shard = self._shards["train"]
        check_batch(len(shard), self.batch_size, what=self.sources.what)
        num_ranks, rank, seed = self._run.world_size, self._run.global_rank, torch.initial_seed() % 2**31
        sampler: DistributedSampler = DistributedSampler(shard, num_ranks, rank, seed=seed)
        return ResumableLoader(
            self._run, shard, batch_size=self.batch_size, sampler=sampler, collate_fn=identity_collate
        )

    def val_dataloader(self) -> DataLoader:
        """Return the validation code sequences."""
        return DataLoader(self._shards["validation"], batch_size=self.batch_size, collate_fn=identity_collate)

    def _path(self, part: Split) -> Path:
        # The name identifies data and codec, so that codes of another split or codec are never used by mistake.
        return self._folder / f"{self.sources.identity(part)}-{self.codec_fingerprint}.npy"

    def _is_encoded(self, part: Split) -> bool:
        if not self._path(part).exists():
            return False
        try:
            CodeShard(self._path(part), self.codec.num_codes)
        except LassError as error:
            rank_zero_info(f"{error} This is done now.")
            return False
        return True

    def _encode(self, part: Split) -> Iterator[CodeSequences]:
        device = self._run.strategy.root_device
        codec = self.codec.to(device)
        loader = DataLoader(self.sources.part(part), self.batch_size, collate_fn=identity_collate)
        for batch in tqdm(loader, desc=f"Encoding {part} sources once"):
            with torch.inference_mode():
                codes = codec.encode(batch.signals.to(device)).flatten(1).cpu()
            yield CodeSequences(codes, batch.labels)
