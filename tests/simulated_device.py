"""Simulated accelerator, which detects device errors on a machine with a CPU only.

It computes on the CPU and raises errors for operations that accelerators do not support:

- tensors of two devices in one operation (all accelerators), except CPU scalars and CPU indices of its own tensors;
- float64 (Apple);
- operations without a deterministic implementation, after `torch.use_deterministic_algorithms(True)` (CUDA).

Not simulated: missing kernels of a device, its rounding, streams, memory, and autocast.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register
except ImportError:  # older releases of torch have no backends in Python
    register = None

SIMULATED = "simulated"
#: Devices of the fixture `device`, on which every tensor test runs.
DEVICES = ["cpu"] if register is None else ["cpu", SIMULATED]
DEVICES += [name for name in ("cuda", "mps") if getattr(torch, name).is_available()]

#: Errors of backward passes, collected for the fixture `device`, because raising them there would end the process.
REFUSED_IN_BACKWARD: list[Exception] = []

aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
#: Non-deterministic operations that this package uses or might use, from the documentation of
#: torch.use_deterministic_algorithms.
NOT_DETERMINISTIC = {
    "adaptive_avg_pool2d_backward",
    "avg_pool3d_backward",
    "cumsum",
    "cumsum_",
    "grid_sampler_2d_backward",
    "histc",
    "kthvalue",
    "median",
    "nll_loss2d_forward",
    "put_",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
}


class SimulatedTensor(torch.Tensor):
    """Tensor on the simulated device: a wrapper of a CPU tensor."""

    @staticmethod
    def __new__(cls, on_cpu: torch.Tensor) -> SimulatedTensor:
        facts = {"strides": on_cpu.stride(), "storage_offset": on_cpu.storage_offset(), "dtype": on_cpu.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, on_cpu.shape, device=f"{SIMULATED}:0", **facts)
        tensor.on_cpu = on_cpu
        return tensor

    def tolist(self) -> list:
        return self.on_cpu.tolist()

    def __repr__(self) -> str:
        return f"simulated {self.on_cpu!r}"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _compute(operation, *args, **(kwargs or {}))


def _compute(operation, *args, **kwargs):
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    simulated = [x for x in tensors if isinstance(x, SimulatedTensor)]
    assert all(x.shape == x.on_cpu.shape for x in simulated)
    together = tensors
    if operation in INDEXING and isinstance(args[0], SimulatedTensor):
        together = [args[0], *args[2:3]]  # without the indices
    if simulated and operation not in COPIES:
        for x in together:
            if x.ndim and not isinstance(x, SimulatedTensor):
                _refuse(
                    RuntimeError(f"{operation}: expected all tensors on one device, got {SIMULATED} and {x.device}")
                )
    is_integer = not any(x.is_floating_point() for x in tensors)
    if torch.are_deterministic_algorithms_enabled() and operation._opname in NOT_DETERMINISTIC and not is_integer:
        _refuse(RuntimeError(f"{operation} does not have a deterministic implementation"))
    asked_for = [x.type for x in tree_leaves((args, kwargs)) if isinstance(x, torch.device)]
    on_cpu = tree_map_only(SimulatedTensor, lambda x: x.on_cpu, (args, kwargs))
    on_cpu_args, on_cpu_kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), on_cpu)
    result = operation(*on_cpu_args, **on_cpu_kwargs)
    if (asked_for and SIMULATED not in asked_for) or not (asked_for or simulated):
        return result
    result = tree_map_only(torch.Tensor, _shell, result)
    return return_and_correct_aliasing(operation, args, kwargs, result) if simulated else result


def _refuse(error: Exception) -> None:
    if torch._C._current_autograd_node() is None:
        raise error
    REFUSED_IN_BACKWARD.append(error)


def _shell(on_cpu: torch.Tensor) -> SimulatedTensor:
    if on_cpu.dtype == torch.float64:
        _refuse(TypeError(f"Cannot convert a tensor to float64: the {SIMULATED} device has none"))
    with torch.inference_mode(False):  # views of normal tensors stay normal in inference mode
        return SimulatedTensor(on_cpu)


_MODULE = SimpleNamespace(
    get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
    _is_in_bad_fork=lambda: False,
    is_available=lambda: True,
    is_initialized=lambda: False,
    manual_seed_all=lambda seed: None,  # random numbers are drawn on the CPU
)
if register is not None:
    register(SIMULATED, _MODULE)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="simulated") is made on the CPU and moved
    _FALLBACK, _ATEN = (torch.library.Library(namespace, "IMPL") for namespace in ("_", "aten"))
    _FALLBACK.fallback(_compute, "PrivateUse1")
    # torch would resize an empty wrapper
    for _made in (aten.arange.default, aten.arange.start, aten.arange.start_step, aten.hann_window.default):
        _ATEN.impl(_made, functools.partial(_compute, _made), "PrivateUse1")
