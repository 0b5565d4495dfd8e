"""LASS: separate mixtures with generative models that were trained on single sources only.

Names are imported when they are first used, so that `import lass` is fast.

Source: Postolache et al., "Latent Autoregressive Source Separation", AAAI 2023 (arXiv:2301.08562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lass.data.images.files import read_image, write_image
    from lass.errors import LassError
    from lass.likelihood import SparseCounts, SparseLikelihood
    from lass.separation import SeparationResult, Separator, separate_codes

__all__ = [
    "LassError",
    "SeparationResult",
    "Separator",
    "SparseCounts",
    "SparseLikelihood",
    "read_image",
    "separate_codes",
    "write_image",
]

_MODULES = {
    "LassError": "lass.errors",
    "SeparationResult": "lass.separation",
    "Separator": "lass.separation",
    "SparseCounts": "lass.likelihood",
    "SparseLikelihood": "lass.likelihood",
    "read_image": "lass.data.images.files",
    "separate_codes": "lass.separation",
    "write_image": "lass.data.images.files",
}
_SUBMODULES = (
    "artifacts",
    "codecs",
    "data",
    "errors",
    "likelihood",
    "methods",
    "metrics",
    "priors",
    "samplers",
    "separation",
    "tasks",
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"lass.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'lass' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value
