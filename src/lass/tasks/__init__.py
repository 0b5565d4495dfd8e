"""The LightningModules of the four stages."""

from lass.tasks.encoded_sources import EncodedSources
from lass.tasks.prior import PriorTraining
from lass.tasks.vqvae import VQVAETraining

__all__ = ["EncodedSources", "PriorTraining", "VQVAETraining"]
