"""Pooling of volumes, (N, C, D, H, W) or (C, D, H, W), and power-average pooling: the 2-d functions on slices, then on
columns of slices. Windows are boxes, so that their maxima and means come apart so; the input is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from .. import _C
from ..tensor import Tensor
from . import arithmetic, pooling, pooling1d, shape
from ._arguments import dtype_name, integer, pair, single
from ._arguments import sizes as _sizes

Size = int | Sequence[int]
OutputSize = int | None | Sequence[int | None]


def _three(op: str, input: Any, kernel_size: Size, **others: Any) -> list[tuple[int, ...]]:
    if input.ndim not in (4, 5):
        raise ValueError(f"{op}: input has shape {tuple(input.shape)}; expected (N, C, D, H, W) or (C, D, H, W)")
    kernel = _sizes(kernel_size, 3, op, "kernel_size")
    out = [kernel]
    for name, value in others.items():
        left_out = name == "stride" and (value is None or (isinstance(value, (tuple, list)) and not value))
        out.append(kernel if left_out else _sizes(value, 3, op, name))
    return out


def _slices(x: Any) -> Any:
    """(N, C D, H, W)"""
    *lead, channels, depth, height, width = x.shape
    return shape.reshape(x, (*lead, channels * depth, height, width))


def _columns(planes: Any, like: Any) -> Any:
    """(N, C, D, H' W') from slices (N, C D, H', W')."""
    *lead, channels, depth, _, _ = like.shape
    return shape.reshape(planes, (*lead, channels, depth, planes.shape[-2] * planes.shape[-1]))


def _volume(columns: Any, planes: Any) -> Any:
    return shape.reshape(columns, (*columns.shape[:-1], *planes.shape[-2:]))


# ---- max -------------------------------------------------------------------------------------------------------------


def _volume_indices(in_planes, in_columns, area):
    """(d H + h) W + w of the maxima, from h W + w in slices and from d H' W' + p in columns."""
    of_planes, of_columns = in_planes.numpy(), in_columns.numpy()
    pixels = of_columns.shape[-1]
    flat = of_columns.reshape(*of_columns.shape[:-2], -1)
    picked = np.take_along_axis(of_planes.reshape(*flat.shape[:-1], -1), flat, -1)
    out = np.where((flat < 0) | (picked < 0), -1, flat // max(pixels, 1) * area + picked)
    return _C.from_numpy(np.ascontiguousarray(out.reshape(of_columns.shape)))


_indices = _C.Op("max_pool3d_indices", _volume_indices)


def max_pool3d(
    input: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y[n, c, o, p, q] = max of x over a window of kd x kh x kw voxels, outside of x: -inf. See max_pool2d.

    Args:
        kernel_size, stride, padding, dilation: an int or (depth, vertical, horizontal). stride None: kernel_size.
        return_indices: return (y, indices), int64 indices (d H + h) W + w of the maxima.

    Raises: as max_pool2d.
    """
    kernel, stride, padding, dilation = _three(
        "max_pool3d", input, kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    plane = (kernel[1:], stride[1:], padding[1:], dilation[1:], ceil_mode, return_indices)
    column = ((kernel[0], 1), (stride[0], 1), (padding[0], 0), (dilation[0], 1), ceil_mode, return_indices)
    planes = pooling.max_pool2d(_slices(input), *plane)
    return _max_columns(planes, input, lambda x: pooling.max_pool2d(x, *column))


def adaptive_max_pool3d(
    input: Any, output_size: OutputSize, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """The maxima of output_size boxes, which lie as adaptive_max_pool2d's windows; see max_pool3d for indices."""
    depth, *plane = _adaptive("adaptive_max_pool3d", input, output_size)
    planes = pooling.adaptive_max_pool2d(_slices(input), tuple(plane), return_indices)
    return _max_columns(planes, input, lambda x: pooling.adaptive_max_pool2d(x, (depth, None), return_indices))


def _max_columns(planes: Any, input: Any, pool: Any) -> Any:
    if not isinstance(planes, tuple):
        return _volume(pool(_columns(planes, input)), planes)
    planes, in_planes = planes
    y, in_columns = pool(_columns(planes, input))
    indices = _indices(_columns(in_planes, input), in_columns, input.shape[-2] * input.shape[-1])
    return _volume(y, planes), _volume(indices, planes)


# ---- average ---------------------------------------------------------------------------------------------------------


def avg_pool3d(
    input: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """y[n, c, o, p, q] = sum of x over a window of kd x kh x kw voxels / divisor, outside of x: 0. See avg_pool2d.

    16-bit types are averaged as float32.

    Args: kernel_size, stride, padding: an int or (depth, vertical, horizontal). Others and errors as avg_pool2d.
    """
    kernel, stride, padding = _three("avg_pool3d", input, kernel_size, stride=stride, padding=padding)
    if divisor_override is not None and not integer(divisor_override, "avg_pool3d", "divisor_override"):
        raise ValueError("avg_pool3d: divisor_override is 0; expected another int, or None")
    wide = _wide(input)
    planes = pooling.avg_pool2d(
        _slices(wide), kernel[1:], stride[1:], padding[1:], ceil_mode, count_include_pad, divisor_override
    )
    columns = pooling.avg_pool2d(
        _columns(planes, input),
        (kernel[0], 1),
        (stride[0], 1),
        (padding[0], 0),
        ceil_mode,
        count_include_pad,
        None if divisor_override is None else 1,
    )
    return _narrow(_volume(columns, planes), input)


def adaptive_avg_pool3d(input: Any, output_size: OutputSize) -> Tensor:
    """The means of output_size boxes, which lie as adaptive_avg_pool2d's windows."""
    depth, *plane = _adaptive("adaptive_avg_pool3d", input, output_size)
    planes = pooling.adaptive_avg_pool2d(_slices(_wide(input)), tuple(plane))
    return _narrow(_volume(pooling.adaptive_avg_pool2d(_columns(planes, input), (depth, None)), planes), input)


_HALVES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


def _wide(x: Any) -> Any:
    """16-bit types as float32, so that what slices give is not rounded."""
    return shape._astype(x, np.dtype(np.float32)) if dtype_name(x.dtype) in _HALVES else x


def _narrow(x: Any, like: Any) -> Any:
    dtype = _HALVES.get(dtype_name(like.dtype))
    return x if dtype is None else shape._astype(x, dtype)


def _adaptive(op: str, input: Any, output_size: OutputSize) -> tuple[int | None, ...]:
    if input.ndim not in (4, 5):
        raise ValueError(f"{op}: input has shape {tuple(input.shape)}; expected (N, C, D, H, W) or (C, D, H, W)")
    if not isinstance(output_size, (tuple, list)):
        return (output_size,) * 3
    if len(output_size) != 3:
        raise ValueError(f"{op}: output_size is {output_size!r}; expected an int, None, or three of those")
    return tuple(output_size)


# ---- power average ---------------------------------------------------------------------------------------------------


def _power_average(input: Any, norm_type: float, voxels: int, average: Any) -> Any:
    total = arithmetic.mul(average(arithmetic.pow(input, norm_type)), voxels)
    return arithmetic.pow(total, 1 / norm_type)


def lp_pool1d(
    input: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """y = (sum of x^p over the window)^(1 / p), p = norm_type; windows as avg_pool1d without padding."""
    kernel = single(kernel_size, "lp_pool1d", "kernel_size")
    return _power_average(input, norm_type, kernel, lambda x: pooling1d.avg_pool1d(x, kernel, stride, 0, ceil_mode))


def lp_pool2d(
    input: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """y = (sum of x^p over the window)^(1 / p), p = norm_type; windows as avg_pool2d without padding."""
    kernel = pair(kernel_size, "lp_pool2d", "kernel_size")
    return _power_average(
        input, norm_type, kernel[0] * kernel[1], lambda x: pooling.avg_pool2d(x, kernel, stride, 0, ceil_mode)
    )


def lp_pool3d(
    input: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """y = (sum of x^p over the window)^(1 / p), p = norm_type; windows as avg_pool3d without padding."""
    kernel = _sizes(kernel_size, 3, "lp_pool3d", "kernel_size")
    voxels = kernel[0] * kernel[1] * kernel[2]
    return _power_average(input, norm_type, voxels, lambda x: avg_pool3d(x, kernel, stride, 0, ceil_mode))
