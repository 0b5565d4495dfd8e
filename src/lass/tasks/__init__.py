"""LightningModules of the four stages, of training features for a Fréchet distance, and of training rival methods."""

from lass.tasks.codebook import CodebookFitting
from lass.tasks.dictionaries import DictionaryFitting
from lass.tasks.encoded_sources import EncodedSources
from lass.tasks.evaluation import Evaluation
from lass.tasks.features import FeatureTraining
from lass.tasks.gan import GANTraining
from lass.tasks.image_supervised import ImageSupervisedTraining
from lass.tasks.likelihood import LikelihoodCounting
from lass.tasks.prior import PriorTraining
from lass.tasks.score import ScoreTraining
from lass.tasks.separation import Separation
from lass.tasks.supervised import SupervisedTraining
from lass.tasks.vqvae import VQVAETraining

__all__ = [
    "CodebookFitting",
    "DictionaryFitting",
    "EncodedSources",
    "Evaluation",
    "FeatureTraining",
    "GANTraining",
    "ImageSupervisedTraining",
    "LikelihoodCounting",
    "PriorTraining",
    "ScoreTraining",
    "Separation",
    "SupervisedTraining",
    "VQVAETraining",
]
