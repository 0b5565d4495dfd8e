"""Entry point of torch.hub: `torch.hub.load(<folder of this repository>, "separator", "mnist", source="local")`.

The base packages of setup.cfg are needed, but no installation of LASS.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

from lass import Separator

#: Packages that torch.hub looks for before it loads a model.
dependencies = ["torch", "numpy", "scipy", "safetensors", "einops", "jaxtyping", "psutil", "yaml", "huggingface_hub"]


def separator(name: str = "mnist", num_sources: int | None = None, **options: object) -> Separator:
    """Load a separator; see `lass.Separator.from_pretrained`.

    Args:
        name: Published model such as "mnist", folder of a separator, or "organisation/name" on the Hugging Face Hub.
        num_sources: Number of sources, if they share one prior; default the number of the separator.
        options: Further arguments of `from_pretrained`, e.g. `revision`.
    """
    return Separator.from_pretrained(name, num_sources, **options)
