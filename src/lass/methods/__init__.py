"""Separation methods: their protocol, and the methods that LASS is compared with, one file each."""

from lass.methods.average import Average
from lass.methods.basis import BASIS
from lass.methods.conv_tasnet import ConvTasNet
from lass.methods.demucs import Demucs
from lass.methods.dictionaries import NMFDictionaries
from lass.methods.ft2d import FT2D
from lass.methods.gan_prior import GANPrior
from lass.methods.generator import ImageGenerator
from lass.methods.hpss import HPSS
from lass.methods.ica import ICA
from lass.methods.isdm import ISDM
from lass.methods.mask_unet import MaskUNet
from lass.methods.nmf import NMF
from lass.methods.oracle import IdealRatioMask
from lass.methods.pnf import PnF
from lass.methods.protocol import SeparationMethod
from lass.methods.repet import REPET
from lass.methods.rpca import RPCA
from lass.methods.supervised import SupervisedSeparator

__all__ = [
    "BASIS",
    "FT2D",
    "HPSS",
    "ICA",
    "ISDM",
    "NMF",
    "REPET",
    "RPCA",
    "Average",
    "ConvTasNet",
    "Demucs",
    "GANPrior",
    "IdealRatioMask",
    "ImageGenerator",
    "MaskUNet",
    "NMFDictionaries",
    "PnF",
    "SeparationMethod",
    "SupervisedSeparator",
]
