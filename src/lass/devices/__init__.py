"""Device-dependent numerics: data types, precision, and deterministic cumulative sums."""

from lass.devices.numerics import running_sum, widest_float
from lass.devices.precision import full_precision

__all__ = ["full_precision", "running_sum", "widest_float"]
