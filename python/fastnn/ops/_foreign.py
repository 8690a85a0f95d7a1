"""Arguments of an op that are neither Tensors, numpy arrays nor Python numbers: numpy scalars, other DLPack arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _C


def call_foreign(op: _C.Op, args: tuple[Any, ...]) -> Any:
    """Calls op with such arguments converted; arrays of another library give results of that library."""
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(arg, torch.Tensor) for arg in args):
        from . import _torch  # attaches itself, so that the next call does not come here

        return _torch.call(op, args)
    from ..tensor import from_dlpack

    converted, theirs, ours = [], None, None
    for i, arg in enumerate(args):
        if isinstance(arg, np.generic) and not isinstance(arg, np.void):
            arg = arg.item()
        elif isinstance(arg, (_C.TensorBase, np.ndarray)):
            ours = arg
        elif isinstance(arg, (int, float, str, tuple, type(None), np.dtype)):
            pass
        elif hasattr(arg, "__dlpack__"):
            if theirs is not None and type(arg).__module__.split(".")[0] != type(theirs).__module__.split(".")[0]:
                raise _mixed(op, theirs, arg)
            theirs = arg
            arg = from_dlpack(arg)
        else:
            raise TypeError(
                f"{op.name}: argument {i} is a {type(arg).__module__}.{type(arg).__qualname__}; expected a "
                "fastnn.Tensor, a numpy array, a number or an array with __dlpack__; make one with fastnn.tensor(data)"
            )
        converted.append(arg)
    if theirs is not None and ours is not None:
        raise _mixed(op, ours, theirs)
    out = op(*converted)
    return out if theirs is None else _to_foreign(out, _importer(theirs))


def random_key(array: Any) -> Any:
    """Two random words from the generator of the array's library, an int64 array of it; None for libraries without one.

    PyTorch's generator is what torch.manual_seed sets, and what activation checkpointing and torch.compile repeat.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(array, torch.Tensor):
        return None
    return torch.randint(2**63 - 1, (2,), dtype=torch.int64, device="cpu")


def before_change(array: Any) -> Any:
    """What to give an op that saves its input, if `write_back` changes that afterwards: a copy while recording."""
    if isinstance(array, (_C.TensorBase, np.ndarray)) or not getattr(array, "requires_grad", False):
        return array
    return array.clone() if sys.modules["torch"].is_grad_enabled() else array


def write_back(op: str, input: Any, output: Any) -> Any:
    """input, changed to hold output: with torch's own change in place, which follows torch's rules for it."""
    if not hasattr(input, "copy_"):
        raise NotImplementedError(
            f"{op}: inplace=True is not supported for {type(input).__name__}; expected a Tensor, a numpy array or a "
            "torch tensor"
        )
    return input.copy_(output)


def _mixed(op: _C.Op, a: Any, b: Any) -> TypeError:
    names = [f"{type(x).__module__}.{type(x).__qualname__}" for x in (a, b)]
    return TypeError(
        f"{op.name}: arguments are a {names[0]} and a {names[1]}; expected arrays of one library: convert with "
        "fastnn.from_dlpack"
    )


def _importer(array: Any) -> Callable[[Any], Any]:
    """The from_dlpack of the array's library."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__().from_dlpack
    module = sys.modules[type(array).__module__.split(".")[0]]
    if not hasattr(module, "from_dlpack"):
        raise TypeError(f"{module.__name__} has no from_dlpack: pass a numpy array or a fastnn.Tensor")
    return module.from_dlpack


def _to_foreign(out: Any, importer: Callable[[Any], Any]) -> Any:
    if isinstance(out, _C.TensorBase):
        return importer(out.detach())
    return tuple(_to_foreign(item, importer) for item in out) if isinstance(out, tuple) else out
