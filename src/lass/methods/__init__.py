"""Separation methods other than LASS, one file each."""

from lass.methods.dictionaries import NMFDictionaries
from lass.methods.ft2d import FT2D
from lass.methods.hpss import HPSS
from lass.methods.ica import ICA
from lass.methods.nmf import NMF
from lass.methods.oracle import IdealRatioMask
from lass.methods.repet import REPET
from lass.methods.rpca import RPCA

__all__ = ["FT2D", "HPSS", "ICA", "NMF", "REPET", "RPCA", "IdealRatioMask", "NMFDictionaries"]
