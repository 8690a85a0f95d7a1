"""What a call with torch tensors needs from Python: the hooks of csrc/python/torch.cpp, and calls off the fast path."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from inspect import getattr_static
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad as _forward_ad
from torch.autograd import profiler as _profiler

from .. import _C

# ---- hooks that torch.cpp reads by name ------------------------------------------------------------------------------

Tensor = torch.Tensor
Parameter = torch.nn.Parameter
exchange = torch.Tensor.__dlpack_c_exchange_api__
function_modes = torch._C._len_torch_function_stack
is_grad_enabled = torch.is_grad_enabled
increment_version = torch.autograd.graph.increment_version
forward_ad = vars(_forward_ad)
profiler = vars(_profiler)  # what it shows are operators of the dispatcher


def is_plain() -> bool:
    """Whether no dispatch mode, transform, tracing or autocast is active in this thread."""
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch.is_autocast_enabled("cpu")
    )


def view(tensor: torch.Tensor, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> torch.Tensor:
    return tensor.as_strided(shape, strides, tensor.storage_offset() + offset)


def only_once(op: _C.Op, grads: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
    """The gradients, made so that differentiating them raises: a derivative of an op has no derivative here."""
    message = f"{op.name}: fastnn has no second derivative of this op; use torch's own op where one is needed"
    error = torch._C._functions.DelayedError(message.encode(), len(grads))
    # DelayedError gives its outputs a history only if an input has one.
    out = error(*(None if g is None else g.detach().requires_grad_(g.is_floating_point()) for g in grads))
    return out if isinstance(out, tuple) else (out,)


# ---- resolving an op -------------------------------------------------------------------------------------------------

# Views, and changes in place: torch's own, whose autograd, versions and aliases they need.
NATIVE: dict[str, Callable[..., Any]] = {
    "reshape": torch.Tensor.reshape,
    "view": torch.Tensor.view,
    "permute": torch.Tensor.permute,
    "transpose": torch.Tensor.transpose,
    "expand": torch.Tensor.expand,
    "contiguous": lambda x, channels_last: x.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    ),
    "to": lambda x, dtype: x.to(torch_dtype(dtype)),
    "to_device": lambda x, device: x.to(device),
    "cast": lambda x, dtype: x.to(torch_dtype(dtype)),
    "getitem": lambda x, index: x[index],
    "take": lambda x, index: x[index],
    "setitem": lambda x, value, index: x.__setitem__(index, value),
    "add_": torch.Tensor.add_,
    "sub_": torch.Tensor.sub_,
    "mul_": torch.Tensor.mul_,
    "div_": torch.Tensor.div_,
    "copy_": torch.Tensor.copy_,
    "fill_": torch.Tensor.fill_,
}


# Attributes of a Function that apply() looks up by names which no cache of Python's knows: 0.1 us for each class on
# the way to the one that has it.
LOOKED_UP = [
    name
    for name in ("setup_context", "clear_saved_tensors_on_access", "boxed_grads_call")
    if hasattr(torch.autograd.Function, name)
]


def torch_dtype(dtype: Any) -> torch.dtype:
    """torch's dtype for a numpy dtype, its name, or a torch dtype."""
    if isinstance(dtype, torch.dtype):
        return dtype
    return getattr(torch, dtype if isinstance(dtype, str) else np.dtype(dtype).name)


def resolve(op: _C.Op) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """(apply of the op's torch.autograd.Function, torch's own function where that is used instead)."""
    native = NATIVE.get(op.name)
    if native is not None or op.record is None:
        return None, native
    members = {name: getattr_static(torch.autograd.Function, name) for name in LOOKED_UP}
    members |= {"forward": staticmethod(op.torch_forward), "backward": staticmethod(op.torch_backward)}
    function = type(f"fastnn_{op.name}", (torch.autograd.Function,), members)
    node = function._backward_cls  # its instances are ctx
    if "apply" in vars(node.__base__):  # Python that looks for backward() and calls it: a microsecond
        members = {
            "apply": _C.instance_method(op.torch_backward),
            "__slots__": ("saved_values", "arguments"),
            "_forward_cls": function,
        }
        function._backward_cls = type(node.__name__, (node.__base__,), members)
    # Function.apply is Python that looks for functorch transforms, which the guard has done.
    return super(torch.autograd.Function, function).apply, None


# ---- off the fast path -----------------------------------------------------------------------------------------------


def call(op: _C.Op, args: tuple[Any, ...]) -> Any:
    """op(*args) for arguments with a torch tensor among them, of which the C entry knew nothing."""
    args = _convert(op, args)
    if any(type(arg) in (Tensor, Parameter) for arg in args):
        return op(*args)
    return unusual(op, args)


def unusual(op: _C.Op, args: tuple[Any, ...]) -> Any:
    """op(*args) where the C entry saw something that its fast path does not take."""
    converted = _convert(op, args)
    if any(a is not b for a, b in zip(args, converted, strict=True)):
        return op(*converted)
    from ..torch import registration  # a third of a second, which plain eager calls do not need

    row, operator = registration.find(op, args)
    if torch._C._are_functorch_transforms_active() or _forward_ad._current_level >= 0:
        return row.composite(*row.from_op(*args))  # vmap, grad, jvp and forward-mode AD differentiate torch's own ops
    if _is_only_autocast(args):
        with torch._C._DisableAutocast():
            return op(*registration.autocast_arguments(row, args))
    return operator(*row.from_op(*args))


def _is_only_autocast(args: tuple[Any, ...]) -> bool:
    """Whether autocast is all that keeps a call off the fast path."""
    return torch.is_autocast_enabled("cpu") and not (
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or any(_is_torch(a) and (type(a) not in (Tensor, Parameter) or a.device.type != "cpu") for a in args)
    )


def _convert(op: _C.Op, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """args with numpy's scalars as Python numbers. Raises TypeError for arrays of other libraries."""
    converted = []
    for i, arg in enumerate(args):
        if isinstance(arg, np.generic) and not isinstance(arg, np.void):
            arg = arg.item()
        elif isinstance(arg, (_C.TensorBase, np.ndarray)) or (hasattr(arg, "__dlpack__") and not _is_torch(arg)):
            raise TypeError(
                f"{op.name}: argument {i} is a {type(arg).__module__}.{type(arg).__qualname__} beside a torch.Tensor; "
                "expected arrays of one library: convert it with torch.from_dlpack"
            )
        converted.append(arg)
    return tuple(converted)


def _is_torch(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def unusual_backward(
    op: _C.Op,
    needs: tuple[bool, ...],
    values: tuple[Any, ...],
    saved: tuple[torch.Tensor, ...],
    grads: tuple[torch.Tensor | None, ...],
) -> tuple[torch.Tensor | None, ...]:
    """The gradient of a call that took the fast path, where something unusual came up since.

    Modes and autocast are not asked: they did not see the call either.
    """
    if torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state() is not None:
        raise NotImplementedError(
            f"{op.name}: the gradient of an eager call cannot be batched, transformed or traced "
            "(is_grads_batched=True, torch.func); apply the transform to the call as well, or use torch's own op"
        )
    result = op.torch_run_backward(needs, values, tuple(map(_plain, saved)), *map(_plain, grads))
    return only_once(op, result) if torch.is_grad_enabled() else result


def _plain(value: Any) -> Any:
    """A torch tensor as the C entry takes it: without subclass and pending negation."""
    if not _is_torch(value):
        return value
    if type(value) not in (Tensor, Parameter):
        if type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            raise NotImplementedError(
                f"a gradient or saved tensor is a {type(value).__module__}.{type(value).__qualname__}, whose memory "
                "only its class knows; expected a torch.Tensor"
            )
        value = value.as_subclass(Tensor)
    return value.resolve_neg()


# ---- attaching -------------------------------------------------------------------------------------------------------


def _library(name: str) -> str | None:
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    for ending in (".so", ".dylib"):
        path = os.path.join(folder, name + ending)
        if os.path.exists(path):
            return path
    return None


def _find_key_library() -> str | None:
    """The library that holds the thread's dispatch keys, if they are where torch.cpp looks and mean what it thinks."""
    path = _library("libc10")
    try:
        keys = (ctypes.c_uint64 * 2).in_dll(ctypes.CDLL(path or ""), "_ZN3c104impl26raw_local_dispatch_key_setE")
    except (OSError, ValueError):
        return None
    if not is_plain() or any(keys):  # something is on while we look: do without
        return None
    with torch.autocast("cpu", torch.bfloat16):
        if not any(keys):
            return None
    return path if not any(keys) else None


key_library = _find_key_library()
cpu_library = _library("libtorch_cpu")
_C.attach_torch(sys.modules[__name__])
