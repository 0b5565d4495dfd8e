"""Importer of the sums of the authors' code: how often each pair of source codes was counted with each mixture code."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lass.errors import LassError
from lass.importers.authors_images import ORIGIN
from lass.importers.checkpoints import explained, read_tensor
from lass.importers.pickles import UnreadableError
from lass.likelihood import SparseCounts

MAX_RATIO = 100  # maximum ratio of the arrays in a compressed file to its size; that of real counts is about 10


def read_sums(path: str | Path, codec_fingerprint: str | None = None) -> SparseCounts:
    """Read the authors' sums as counts.

    Entry (i, j, m) is the number of times that sources with the codes i and j had a mixture with the code m. The sums
    of images (`lass_mnist`: a tensor) are not symmetric in i and j; those of audio are (`lass_audio`: an array of the
    package sparse in coordinate format).

    Args:
        path: Path of a file of `torch.save` or of `sparse.save_npz`. No code in it is executed.
        codec_fingerprint: Fingerprint of the codec that the codes belong to.

    Raises:
        LassError: if the file is missing or damaged, or holds anything other than K×K×K whole numbers.
    """
    shape, coordinates, values = _sparse(path) if _is_npz(path) else _dense(path)
    try:
        if len(shape) != 3 or len(set(shape)) > 1:
            raise LassError(f"expected numbers in the shape (K, K, K), got {shape}")
        counts = values.long()
        if not torch.equal(counts.to(values.dtype), values):
            raise LassError("expected counts, which are whole numbers, got others")
        return SparseCounts.from_triples(shape[0], coordinates, counts, codec_fingerprint)
    except LassError as error:
        raise LassError(f"{path} holds no sums of the authors: {str(error).rstrip('.')}.") from error


def _is_npz(path: str | Path) -> bool:
    """Whether the file is an archive of arrays; those of `torch.save` are archives of other things."""
    with explained(path, ORIGIN) as file:
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())


def _dense(path: str | Path) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Return the shape of a tensor in a file, and the coordinates (dimensions, nonzeros) and values of its nonzeros."""
    sums = read_tensor(path, ORIGIN)
    coordinates = sums.nonzero().T
    return tuple(sums.shape), coordinates, sums[tuple(coordinates)]


def _sparse(path: str | Path) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Return the same as `_dense`, of a sparse array."""
    with explained(path, ORIGIN) as file, zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_RATIO * file.stat().st_size:
            raise UnreadableError("its arrays claim more than the file holds")
        shape, coordinates, values = (_array(archive, f"{name}.npy") for name in ("shape", "coords", "data"))
        if shape.ndim != 1 or coordinates.shape != (len(shape), *values.shape):
            raise UnreadableError("its arrays have other shapes than those of a sparse array")
        return tuple(shape.tolist()), torch.from_numpy(coordinates), torch.from_numpy(values)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return a numeric array; the size of the entry, not the header in it, tells how much is read."""
    content = io.BytesIO(archive.read(name))
    np.lib.format.read_magic(content)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.kind not in "iuf":
        raise UnreadableError(f"its {name} holds no numbers")
    array = np.frombuffer(content.getbuffer(), dtype, math.prod(shape), content.tell())
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(np.float64 if dtype.kind == "f" else np.int64)
