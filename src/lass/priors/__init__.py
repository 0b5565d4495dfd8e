"""Autoregressive priors p(next code | past codes) over the codes of a single source."""

from pathlib import Path
from typing import cast

from lass.artifacts import load_artifact
from lass.priors.hugging_face import HuggingFacePrior
from lass.priors.jukebox import JukeboxPrior
from lass.priors.order import from_reading_order, to_reading_order
from lass.priors.protocol import BoundedPrior, OrderedPrior, Prior, SizedPrior, reading_order
from lass.priors.sampling import sample_codes
from lass.priors.transformer import TransformerPrior

__all__ = [
    "BoundedPrior",
    "HuggingFacePrior",
    "JukeboxPrior",
    "OrderedPrior",
    "Prior",
    "SizedPrior",
    "TransformerPrior",
    "from_reading_order",
    "load_prior",
    "reading_order",
    "sample_codes",
    "to_reading_order",
]


def load_prior(folder: str | Path) -> Prior:
    """Load a prior of any class from its folder; see `lass.artifacts.load_artifact` for errors."""
    return cast(Prior, load_artifact(folder, "prior"))
