"""LASS: separate mixtures with generative models that were trained on single sources only.

Names are imported when they are first used, so that `import lass` is fast.

Source: Postolache et al., "Latent Autoregressive Source Separation", AAAI 2023 (arXiv:2301.08562).
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# oneDNN, which torch uses on CPUs, gives wrong bfloat16 convolutions on CPUs with Intel's AMX for some shapes
# (pytorch/pytorch issues 163347 and 169688; with torch 2.11 also Conv1d of 8 channels with a kernel of 8 and a stride
# of 4): its kernels for AVX-512 are used instead, unless the user chose others. oneDNN reads this at its first use.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

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
    "hub",
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
