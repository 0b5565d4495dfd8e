"""Separation methods: their protocol, and the methods that LASS is compared with."""

from lass.methods.average import Average
from lass.methods.protocol import SeparationMethod

__all__ = ["Average", "SeparationMethod"]
