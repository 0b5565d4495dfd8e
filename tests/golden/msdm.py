"""Makes msdm.safetensors: what the samplers of multi-source diffusion models give for Gaussian sources.

    python tests/golden/msdm.py FOLDER

FOLDER is a clone of https://github.com/gladia-research-group/multi-source-diffusion-models. Only its samplers are
loaded, with empty modules in place of its training code. Their random numbers are replaced by those of a mixture in
lass, so that both can be compared number by number.
"""

import functools
import importlib.util
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

from lass.samplers.generators import MixtureGenerators

MEANS, STDS = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.2, 0.4, 0.1])
STEPS, CHURN, RESAMPLES = 12, 4.0, 2


def load(folder: Path) -> types.ModuleType:
    """The module with the samplers, without the rest of the package."""
    stubs = {
        "audio_diffusion_pytorch": {},
        "audio_diffusion_pytorch.diffusion": {"Schedule": object},
        "main": {},
        "main.data": {"assert_is_audio": None, "SeparationDataset": object},
        "main.module_base": {"Model": object},
    }
    for stub, content in stubs.items():
        module = types.ModuleType(stub)
        module.__dict__.update(content)
        module.__path__ = []
        sys.modules[stub] = module
    spec = importlib.util.spec_from_file_location("main.separation", folder / "main/separation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def denoise(noisy: torch.Tensor, sigma: float) -> torch.Tensor:
    """Expected values of Gaussian sources."""
    means, variances = MEANS[: noisy.shape[1], None], STDS[: noisy.shape[1], None] ** 2
    return means + variances / (variances + sigma**2) * (noisy - means)


def main(folder: str) -> None:
    """Write the file."""
    module, golden = load(Path(folder)), {}
    ramp = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    sigmas = torch.cat([(1.0 + ramp * ((1e-4) ** (1 / 7) - 1.0)) ** 7, torch.zeros(1)]).float()
    for num_sources in (2, 3):
        mixture = torch.linspace(-1, 1, 50)[None, None]
        golden[f"mixture.{num_sources}"] = mixture[0]
        for name, function in {
            "dirac": functools.partial(module.differential_with_dirac, source_id=1),
            "gaussian": functools.partial(module.differential_with_gaussian, gamma_fn=lambda sigma: 0.75 * sigma),
        }.items():
            generators = MixtureGenerators(7, [3])
            torch.randn_like = lambda x, generators=generators: generators.normal(*x.shape[1:])
            noises = generators.normal(num_sources, 50)
            found = module.separate_mixture(
                mixture, denoise, sigmas, noises, function, s_churn=CHURN, num_resamples=RESAMPLES
            )
            golden[f"{name}.{num_sources}"] = found[0]
    save_file(golden, str(Path(__file__).with_suffix(".safetensors")))


if __name__ == "__main__":
    main(*sys.argv[1:])
