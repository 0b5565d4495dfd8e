"""Separation methods: their protocol, and the methods that LASS is compared with."""

from lass.methods.average import Average
from lass.methods.conv_tasnet import ConvTasNet
from lass.methods.demucs import Demucs
from lass.methods.protocol import SeparationMethod
from lass.methods.supervised import SupervisedSeparator

__all__ = ["Average", "ConvTasNet", "Demucs", "SeparationMethod", "SupervisedSeparator"]
