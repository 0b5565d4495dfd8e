"""Another data module's sources as codes: encoded once, before the first epoch, then read from a memory-mapped file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lass.artifacts import fingerprint
from lass.codecs import load_codec
from lass.data.codes import CodeSequences, CodeShard, write_codes
from lass.data.module import SourceDataModule, check_batch, check_rate
from lass.data.sources import as_is
from lass.errors import check_number


class EncodedSources(LightningDataModule):
    """Training and validation sources of `sources`, encoded by `codec`.

    Args:
        sources: the data module of the signals.
        codec: folder of the codec.
        batch_size: sequences in a batch.
    """

    def __init__(self, sources: SourceDataModule, codec: str, batch_size: int = 128) -> None:
        super().__init__()
        check_number("batch_size", batch_size, at_least=1, whole=True)
        self.sources, self.codec_folder, self.batch_size = sources, codec, batch_size
        self.codec = load_codec(codec)
        self.codec_fingerprint = fingerprint(self.codec)
        check_rate(sources, self.codec)

    def prepare_data(self) -> None:
        """Encode what is not encoded yet; on one process only."""
        self.sources.prepare_data()
        for part in ("train", "validation"):
            if not self._path(part).exists():
                write_codes(self._path(part), self._encode(part))

    def setup(self, stage: str) -> None:
        """Map the shards into memory."""
        self._shards = {part: CodeShard(self._path(part)) for part in ("train", "validation")}

    def train_dataloader(self) -> DataLoader:
        """Shuffled code sequences."""
        check_batch(len(self._shards["train"]), self.batch_size, what=self.sources.what)
        return DataLoader(self._shards["train"], batch_size=self.batch_size, shuffle=True, collate_fn=as_is)

    def val_dataloader(self) -> DataLoader:
        """Held-out code sequences."""
        return DataLoader(self._shards["validation"], batch_size=self.batch_size, collate_fn=as_is)

    def _path(self, part: str) -> Path:
        # The name tells codec and data apart, so that codes of another codec or split are never taken for these.
        folder = Path(self.trainer.default_root_dir) / "codes"
        return folder / f"{self.sources.identity(part)}-{self.codec_fingerprint}.npy"

    def _encode(self, part: str) -> Iterator[CodeSequences]:
        device = self.trainer.strategy.root_device
        codec = self.codec.to(device)
        loader = DataLoader(self.sources.part(part), self.batch_size, collate_fn=as_is)
        for batch in tqdm(loader, desc=f"Encoding {part} sources once"):
            with torch.inference_mode():
                codes = codec.encode(batch.signals.to(device)).flatten(1).cpu()
            yield CodeSequences(codes, batch.labels)
