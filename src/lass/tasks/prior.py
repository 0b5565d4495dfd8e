"""Stage 2: train an autoregressive prior on the codes of single sources."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lass.artifacts import Artifact
from lass.codecs import shape_codes
from lass.data.codes import CodeSequences
from lass.errors import LassError
from lass.priors import TransformerPrior, from_reading_order, sample_codes, to_reading_order
from lass.report.display import display_of
from lass.report.wandb_callback import Direction, WandbCallback
from lass.tasks.encoded_sources import EncodedSources
from lass.tasks.trainer import datamodule_of
from lass.tasks.training import TrainingTask, at_least_float32, check_same_codec


class PriorTraining(TrainingTask):
    """Trains a prior on EncodedSources and saves it to `<default_root_dir>/prior`.

    Args:
        prior: Network whose forward pass returns logits. It is trained class-conditionally if it has classes.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Number of batches of linear warm-up.
        weight_decay: Weight decay of AdamW.

    Source: LASS (arXiv:2301.08562), section "Autoregressive Models".
    """

    goals: Mapping[str, Direction] = MappingProxyType({"val/nats_per_code_any_class": "min"})
    artifact: Any  # an Artifact that implements Prior, with `num_positions`, `num_classes` and a forward pass

    def __init__(
        self,
        prior: Artifact,
        learning_rate: float = 1e-3,
        warmup_steps: int = 200,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(prior, "val/nats_per_code", "min", learning_rate, warmup_steps, weight_decay)

    def setup(self, stage: str) -> None:
        """Store the codec's fingerprint in the prior, and check that both have the same number of codes and positions.

        Raises:
            LassError: if the numbers differ, or if the data is not EncodedSources.
        """
        data = datamodule_of(self.trainer)
        if not isinstance(data, EncodedSources):
            raise LassError(
                f"A prior is trained on codes: expected the data lass.tasks.EncodedSources, got {type(data).__name__}."
            )
        num_positions = next(iter(data.val_dataloader())).codes.shape[1]
        for name, codec_value in {"num_codes": data.codec.num_codes, "num_positions": num_positions}.items():
            if (prior_value := getattr(self.artifact, name)) != codec_value:
                raise LassError(
                    f"The prior has {name} = {prior_value}, but the codec in {data.codec_folder} gives {codec_value}: "
                    f"set --model.prior.init_args.{name}={codec_value}."
                )
        self.artifact.codec_fingerprint = data.codec_fingerprint

    def wandb_callback(self, **facts: Any) -> WandbCallback:
        """See `TrainingTask`. Data other than EncodedSources raises an error in `setup`."""
        data = datamodule_of(self.trainer)
        if not isinstance(data, EncodedSources):
            return super().wandb_callback(**facts)
        facts |= {"codec_fingerprint": data.codec_fingerprint, "used": [("codec", data.codec_folder)]}
        return super().wandb_callback(**facts)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the codec's fingerprint to the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["codec_fingerprint"] = self.artifact.codec_fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to the same codec.

        Raises:
            LassError: if it belongs to another codec.
        """
        super().on_load_checkpoint(checkpoint)
        check_same_codec(checkpoint, self.artifact.codec_fingerprint)

    def training_step(self, batch: CodeSequences) -> Tensor:
        """Compute the loss: mean negative log-likelihood per code, in nats."""
        loss = self._nats_per_code(batch)
        self.log("train/nats_per_code", loss)
        return loss

    def validation_step(self, batch: CodeSequences) -> None:
        """Log the nats per code on held-out sources; with class dropout, also without conditioning on the classes."""
        scores = {"val/nats_per_code": self._nats_per_code(batch)}
        if isinstance(self.artifact, TransformerPrior) and self.artifact.class_dropout:
            scores["val/nats_per_code_any_class"] = self._nats_per_code(batch, with_class=False)
        for name, score in scores.items():
            self.log(name, score, batch_size=len(batch.codes), prog_bar=name == self.monitor, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log decoded samples of the prior, drawn with the same random numbers after every validation."""
        codec = datamodule_of(self.trainer).codec
        display = display_of(codec)
        if self.trainer.sanity_checking or not self.trainer.is_global_zero or display is None:
            return
        classes = None
        if num_classes := self.artifact.num_classes:
            classes = torch.arange(display.num_examples, device=self.device) % num_classes
        generator = torch.Generator(self.device).manual_seed(0)
        codes = sample_codes(self.artifact, display.num_examples, self.artifact.num_positions, classes, generator)
        codes = from_reading_order(codes, self.artifact)
        with torch.no_grad():
            signals = codec.to(self.device).decode(shape_codes(codec, codes))
        captions = None if classes is None else [f"class {label}" for label in classes.tolist()]
        display.log(self.trainer, "val/samples", {"sample": signals}, captions)

    def _nats_per_code(self, batch: CodeSequences, with_class: bool = True) -> Tensor:
        condition = batch.labels if self.artifact.num_classes and with_class else None
        codes = to_reading_order(batch.codes, self.artifact)
        logits = at_least_float32(self.artifact(codes, condition))
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten())
