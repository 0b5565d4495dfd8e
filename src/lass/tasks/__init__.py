"""The LightningModules of the four stages."""

from lass.tasks.encoded_sources import EncodedSources
from lass.tasks.likelihood import LikelihoodCounting
from lass.tasks.prior import PriorTraining
from lass.tasks.separation import Separation
from lass.tasks.vqvae import VQVAETraining

__all__ = ["EncodedSources", "LikelihoodCounting", "PriorTraining", "Separation", "VQVAETraining"]
