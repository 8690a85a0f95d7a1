"""Tensors filled with a constant, a range or random numbers. dtype is float32 unless given."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _C
from .ops.shape import sizes
from .tensor import Tensor, _check_device, from_numpy


def _finish(out: Tensor, requires_grad: bool) -> Tensor:
    return out.requires_grad_() if requires_grad else out


def full(size: Any, fill_value: float, dtype: Any = None, requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """A tensor of the given shape filled with one number; dtype float32, or int64 or bool as fill_value is."""
    _check_device("full", device)
    if dtype is None:
        dtype = np.bool_ if isinstance(fill_value, bool) else np.int64 if isinstance(fill_value, int) else np.float32
    return _finish(_C.full(sizes("full", (size,)), fill_value, np.dtype(dtype)), requires_grad)


def zeros(*size: Any, dtype: Any = np.float32, requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """zeros(2, 3) or zeros((2, 3))"""
    _check_device("zeros", device)
    return _finish(_C.full(sizes("zeros", size), 0, np.dtype(dtype)), requires_grad)


def ones(*size: Any, dtype: Any = np.float32, requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """ones(2, 3) or ones((2, 3))"""
    _check_device("ones", device)
    return _finish(_C.full(sizes("ones", size), 1, np.dtype(dtype)), requires_grad)


def empty(*size: Any, dtype: Any = np.float32, requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """Uninitialised."""
    _check_device("empty", device)
    return _finish(_C.empty(sizes("empty", size), np.dtype(dtype)), requires_grad)


def zeros_like(input: Tensor, dtype: Any = None) -> Tensor:
    """Zeros of input's shape and dtype."""
    return _C.full(input.shape, 0, np.dtype(dtype or input.dtype))


def ones_like(input: Tensor, dtype: Any = None) -> Tensor:
    """Ones of input's shape and dtype."""
    return _C.full(input.shape, 1, np.dtype(dtype or input.dtype))


def arange(start: float, end: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... up to and without end; arange(n) is 0 to n - 1. int64, or float32 if an argument is a
    float."""
    if end is None:
        start, end = 0, start
    if step == 0:
        raise ValueError("arange: step is 0; expected a nonzero number")
    if dtype is None:
        dtype = np.float32 if any(isinstance(v, float) for v in (start, end, step)) else np.int64
    return _C.clone(from_numpy(np.arange(start, end, step).astype(dtype)))


def rand(*size: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1), from the generator of `fastnn.manual_seed`."""
    return _random("rand", "random", size, dtype, requires_grad)


def randn(*size: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Standard normal, from the generator of `fastnn.manual_seed`."""
    return _random("randn", "standard_normal", size, dtype, requires_grad)


def _random(op: str, method: str, size: tuple[Any, ...], dtype: Any, requires_grad: bool) -> Tensor:
    from . import random

    dtype = np.dtype(dtype)
    drawn = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    array = np.empty(sizes(op, size), drawn)
    getattr(random.generator(), method)(dtype=drawn, out=array)
    return _finish(_C.astype(from_numpy(array), dtype), requires_grad)
