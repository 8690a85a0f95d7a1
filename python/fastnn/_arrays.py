"""What modules and optimizers take: arrays of any library, and the keywords device and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _C
from .backends import _device
from .tensor import Tensor, from_dlpack

FLOATING = ("float32", "bfloat16", "float16", "float64")


def as_tensor(value: Any, what: str) -> Tensor:
    """A Tensor on the memory of a Tensor, numpy array, torch tensor or other array, without history.

    `what` begins the message of the TypeError for anything else.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray):
        return _C.from_numpy(value)
    if hasattr(value, "detach"):  # torch exports no tensor that requires a gradient
        value = value.detach()
    if hasattr(value, "__dlpack__"):
        return from_dlpack(value)
    if hasattr(value, "__array__"):
        return _C.from_numpy(np.asarray(value))
    raise TypeError(f"{what} is a {type(value).__name__}; expected a Tensor, a numpy array or a torch tensor")


def floating_dtype(op: str, device: Any, dtype: Any, default: Any = np.float32) -> np.dtype | None:
    """The numpy dtype of the keyword dtype; `default` for None. The keyword device is checked, too."""
    if device is not None:
        _device(op, device)
    dtype = default if dtype is None else dtype
    if dtype is None:
        return None
    dtype = np.dtype(dtype)
    if dtype.name not in FLOATING:
        raise NotImplementedError(f"{op}: dtype is {dtype}; expected one of {', '.join(FLOATING)}")
    return dtype
