"""Pooling of sequences, (N, C, L) or (C, L): the 2-d functions on images of one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tensor import Tensor
from . import pooling
from ._arguments import single
from .shape import squeeze, unsqueeze

Size = int | Sequence[int]


def _row(op: str, input: Any) -> Any:
    if input.ndim not in (2, 3):
        raise ValueError(f"{op}: input has shape {tuple(input.shape)}; expected (N, C, L) or (C, L)")
    return unsqueeze(input, -2)


def _without_row(out: Any) -> Any:
    return tuple(squeeze(o, -2) for o in out) if isinstance(out, tuple) else squeeze(out, -2)


def max_pool1d(
    input: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y[n, c, p] = max over i < k of x[n, c, p stride + i dilation - padding], outside of x: -inf. See max_pool2d."""
    kernel_size = single(kernel_size, "max_pool1d", "kernel_size")
    stride = kernel_size if stride is None else single(stride, "max_pool1d", "stride")
    padding, dilation = single(padding, "max_pool1d", "padding"), single(dilation, "max_pool1d", "dilation")
    x = _row("max_pool1d", input)
    return _without_row(
        pooling.max_pool2d(x, (1, kernel_size), (1, stride), (0, padding), (1, dilation), ceil_mode, return_indices)
    )


def avg_pool1d(
    input: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """y[n, c, p] = mean over i < k of x[n, c, p stride + i - padding], outside of x: 0. See avg_pool2d."""
    kernel_size = single(kernel_size, "avg_pool1d", "kernel_size")
    stride = kernel_size if stride is None else single(stride, "avg_pool1d", "stride")
    padding = single(padding, "avg_pool1d", "padding")
    x = _row("avg_pool1d", input)
    return _without_row(
        pooling.avg_pool2d(x, (1, kernel_size), (1, stride), (0, padding), ceil_mode, count_include_pad)
    )


def adaptive_avg_pool1d(input: Any, output_size: Size) -> Tensor:
    """y[n, c, p] = mean of x[n, c, floor(p L / P) : ceil((p + 1) L / P)] for p < P = output_size."""
    size = single(output_size, "adaptive_avg_pool1d", "output_size")
    return _without_row(pooling.adaptive_avg_pool2d(_row("adaptive_avg_pool1d", input), (1, size)))


def adaptive_max_pool1d(input: Any, output_size: Size, return_indices: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """y[n, c, p] = max of x[n, c, floor(p L / P) : ceil((p + 1) L / P)] for p < P = output_size."""
    size = single(output_size, "adaptive_max_pool1d", "output_size")
    return _without_row(pooling.adaptive_max_pool2d(_row("adaptive_max_pool1d", input), (1, size), return_indices))
