"""Makes nussl.safetensors: what the methods of nussl give for small spectrograms.

    python tests/golden/nussl.py FOLDER

FOLDER is a clone of https://github.com/nussl/nussl. Only the files of the methods are loaded, with empty modules in
place of the rest of the package, which needs outdated versions of its dependencies.

The spectrogram for FT2D is an outer product of odd size. nussl mirrors the peaks of the 2D Fourier transform along each
axis, and reflects neighbourhoods at its border; both change nothing where the transform's magnitude is symmetric along
each axis.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch
from safetensors.torch import save_file


def load(folder: Path, name: str, method: str) -> type:
    """Class of a method in the file `name` of nussl/separation, without the rest of nussl."""
    package = f"nussl.separation.{name.partition('.')[0]}"
    stubs = {
        "nussl": {},
        "nussl.core": {"utils": None, "constants": types.SimpleNamespace(EPSILON=np.finfo(float).eps)},
        "nussl.separation": {"MaskSeparationBase": object, "SeparationException": ValueError},
        "nussl.separation.benchmark": {"HighLowPassFilter": None},
        package: {},
        "scipy.ndimage.filters": vars(scipy.ndimage),
    }
    for stub, content in stubs.items():
        module = types.ModuleType(stub)
        module.__dict__.update(content)
        module.__path__ = []
        sys.modules[stub] = module
    path = (folder / "nussl/separation" / name.replace(".", "/")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"nussl.separation.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, method)


def main(folder: str) -> None:
    """Write the file."""
    random = np.random.default_rng(0)
    golden = {}

    low_rank = np.abs(random.normal(size=(40, 2))) @ np.abs(random.normal(size=(2, 50)))
    matrix = low_rank + np.where(random.random((40, 50)) < 0.1, 5 * random.random((40, 50)), 0)
    rpca = load(Path(folder), "factorization.rpca", "RPCA")
    method = rpca.__new__(rpca)
    method.num_iterations, method.epsilon = 100, 1e-7
    golden["rpca.magnitudes"] = matrix
    golden["rpca.low_rank"], golden["rpca.sparse"] = method.decompose(matrix.copy())

    rhythm = np.tile(random.random(9), 7)[:61] + 0.3 * random.random(61)
    magnitudes = np.outer(random.random(33) + 0.1, rhythm)
    ft2d = load(Path(folder), "primitive.ft2d", "FT2D")
    method = ft2d.__new__(ft2d)
    method.neighborhood_size = (1, 7)
    background, _ = method.filter_local_maxima(np.fft.fft2(magnitudes))
    golden |= {"ft2d.magnitudes": magnitudes, "ft2d.background": np.fft.ifft2(background).real}

    magnitudes = np.abs(random.normal(size=(20, 30)))
    repet = load(Path(folder), "primitive.repet_sim", "RepetSim")
    method = repet.__new__(repet)
    similarity = repet.compute_similarity_matrix(magnitudes.T)
    far = np.abs(np.subtract.outer(np.arange(30), np.arange(30))) >= 4
    method.audio_signal = types.SimpleNamespace(stft_length=30)
    method.similarity_indices = [sorted(np.flatnonzero(far[i]), key=lambda j: -similarity[i, j])[:5] for i in range(30)]
    golden |= {"repet.magnitudes": magnitudes, "repet.mask": method._compute_mask(magnitudes)}

    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in golden.items()}
    save_file(tensors, Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
