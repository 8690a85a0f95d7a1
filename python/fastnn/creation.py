"""Tensors filled with a constant, a range or random numbers. dtype is float32 and device "cpu" unless given."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _C
from .backends import _device
from .ops.shape import sizes
from .tensor import Tensor


def _finish(out: Tensor, requires_grad: bool) -> Tensor:
    return out.requires_grad_() if requires_grad else out


def _to(op: str, host: Tensor, device: str | None, copy: bool = False) -> Tensor:
    device = _device(op, device)
    return _C.to_device(host, device) if device != "cpu" else _C.clone(host) if copy else host


def full(
    size: Any, fill_value: float, dtype: Any = None, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """A tensor of the given shape filled with one number; dtype float32, or int64 or bool as fill_value is."""
    if dtype is None:
        dtype = np.bool_ if isinstance(fill_value, bool) else np.int64 if isinstance(fill_value, int) else np.float32
    return _finish(_C.full(sizes("full", (size,)), fill_value, np.dtype(dtype), _device("full", device)), requires_grad)


def zeros(*size: Any, dtype: Any = np.float32, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """zeros(2, 3) or zeros((2, 3))"""
    return _finish(_C.full(sizes("zeros", size), 0, np.dtype(dtype), _device("zeros", device)), requires_grad)


def ones(*size: Any, dtype: Any = np.float32, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """ones(2, 3) or ones((2, 3))"""
    return _finish(_C.full(sizes("ones", size), 1, np.dtype(dtype), _device("ones", device)), requires_grad)


def empty(*size: Any, dtype: Any = np.float32, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """Uninitialised."""
    return _finish(_C.empty(sizes("empty", size), np.dtype(dtype), _device("empty", device)), requires_grad)


def zeros_like(input: Tensor, dtype: Any = None) -> Tensor:
    """Zeros of input's shape, dtype and device."""
    return _C.full(input.shape, 0, np.dtype(dtype or input.dtype), input.device)


def ones_like(input: Tensor, dtype: Any = None) -> Tensor:
    """Ones of input's shape, dtype and device."""
    return _C.full(input.shape, 1, np.dtype(dtype or input.dtype), input.device)


def arange(
    start: float, end: float | None = None, step: float = 1, dtype: Any = None, device: str | None = None
) -> Tensor:
    """start, start + step, ... up to and without end; arange(n) is 0 to n - 1. int64, or float32 if an argument is a
    float."""
    if end is None:
        start, end = 0, start
    if step == 0:
        raise ValueError("arange: step is 0; expected a nonzero number")
    if dtype is None:
        dtype = np.float32 if any(isinstance(v, float) for v in (start, end, step)) else np.int64
    return _to("arange", _C.from_numpy(np.arange(start, end, step).astype(dtype)), device, copy=True)


def rand(*size: Any, dtype: Any = np.float32, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """Uniform in [0, 1), from the generator of `fastnn.manual_seed`."""
    return _random("rand", "random", size, dtype, requires_grad, device)


def randn(*size: Any, dtype: Any = np.float32, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """Standard normal, from the generator of `fastnn.manual_seed`."""
    return _random("randn", "standard_normal", size, dtype, requires_grad, device)


def _random(op: str, method: str, size: tuple[Any, ...], dtype: Any, requires_grad: bool, device: str | None) -> Tensor:
    from . import random

    dtype = np.dtype(dtype)
    drawn = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    array = np.empty(sizes(op, size), drawn)
    getattr(random.generator(), method)(dtype=drawn, out=array)
    return _finish(_to(op, _C.astype(_C.from_numpy(array), dtype), device), requires_grad)
