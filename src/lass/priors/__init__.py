"""Autoregressive priors p(next code | past codes) over the codes of a single source."""

from pathlib import Path

from lass.artifacts import load_artifact
from lass.priors.hugging_face import HuggingFacePrior
from lass.priors.order import from_reading_order, to_reading_order
from lass.priors.protocol import Prior
from lass.priors.sampling import sample_codes
from lass.priors.transformer import TransformerPrior

__all__ = [
    "HuggingFacePrior",
    "Prior",
    "TransformerPrior",
    "from_reading_order",
    "load_prior",
    "sample_codes",
    "to_reading_order",
]


def load_prior(folder: str | Path) -> Prior:
    """Load a prior of any class from its folder; see `lass.artifacts.load_artifact` for errors."""
    return load_artifact(folder, "prior")
