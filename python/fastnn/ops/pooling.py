"""Pooling of images, (N, C, H, W) or (C, H, W). Only N may be 0; a channels_last input gives a channels_last output.

Max pooling takes the first maximum of a window, or its last NaN; pixels of the padding are never taken. When a gradient
will be asked for it keeps the position of the maximum in its window as uint8, not an int64 index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _C
from ..tensor import Tensor
from ._arguments import integer, pair

Size = int | Sequence[int]
OutputSize = int | None | Sequence[int | None]


def _stride(stride: Size | None, kernel_size: tuple[int, int], op: str) -> tuple[int, int]:
    """kernel_size where the stride is None or, torch's other way to leave it out, an empty sequence."""
    if stride is None or (isinstance(stride, (tuple, list)) and not stride):
        return kernel_size
    return pair(stride, op, "stride")


# ---- max -------------------------------------------------------------------------------------------------------------


def _record_max(x, kernel_size, stride, padding, dilation, ceil_mode):
    y, position, channels_last = _C.max_pool2d_positions(x, kernel_size, stride, padding, dilation, ceil_mode)
    return y, (position, x.shape, channels_last, kernel_size, stride, padding, dilation, ceil_mode)


def _record_max_with_indices(x, *window):
    y, saved = _record_max(x, *window)
    return (y, _C.max_pool2d_indices(*saved)), saved


_max_pool2d = _C.Op(
    "max_pool2d",
    forward=_C.max_pool2d,
    record=_record_max,
    backward=lambda ctx, grad: _C.max_pool2d_backward(grad, *ctx.saved),
)
_max_pool2d_with_indices = _C.Op(
    "max_pool2d",
    forward=lambda x, *window: _record_max_with_indices(x, *window)[0],
    record=_record_max_with_indices,
    backward=lambda ctx, grads: _C.max_pool2d_backward(grads[0], *ctx.saved),
)


def max_pool2d(
    input: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y[n, c, p, q] = max over i < kh, j < kw of x[n, c, p sh + i dh - ph, q sw + j dw - pw], outside of x: -inf

    The output is (N, C, P, Q) with P = floor((H + 2 ph - dh (kh - 1) - 1) / sh) + 1, or ceil instead of floor with
    `ceil_mode`, where a last window that would start in the bottom padding is dropped; Q alike.

    Args:
      input: (N, C, H, W) or (C, H, W), float32, bfloat16, float16 or float64.
      kernel_size, stride, padding, dilation: an int or (vertical, horizontal), in pixels. stride None: kernel_size.
      return_indices: return (y, indices), int64 indices h W + w of the maxima; -1 for a window without a pixel of x,
        which dilation can make.

    Raises:
      ValueError: sizes out of range, padding over half of the window, a window larger than the padded input.
      NotImplementedError: another dtype; with indices or a gradient, windows of more than 2^24 taps.
    """
    kernel_size = pair(kernel_size, "max_pool2d", "kernel_size")
    op = _max_pool2d_with_indices if return_indices else _max_pool2d
    return op(
        input,
        kernel_size,
        _stride(stride, kernel_size, "max_pool2d"),
        pair(padding, "max_pool2d", "padding"),
        pair(dilation, "max_pool2d", "dilation"),
        bool(ceil_mode),
    )


def _record_adaptive_max(x, output_size):
    y, position, channels_last = _C.adaptive_max_pool2d_positions(x, output_size)
    return y, (position, x.shape, channels_last, output_size)


def _record_adaptive_max_with_indices(x, output_size):
    y, saved = _record_adaptive_max(x, output_size)
    return (y, _C.adaptive_max_pool2d_indices(*saved)), saved


_adaptive_max_pool2d = _C.Op(
    "adaptive_max_pool2d",
    forward=_C.adaptive_max_pool2d,
    record=_record_adaptive_max,
    backward=lambda ctx, grad: _C.adaptive_max_pool2d_backward(grad, *ctx.saved),
)
_adaptive_max_pool2d_with_indices = _C.Op(
    "adaptive_max_pool2d",
    forward=lambda x, output_size: _record_adaptive_max_with_indices(x, output_size)[0],
    record=_record_adaptive_max_with_indices,
    backward=lambda ctx, grads: _C.adaptive_max_pool2d_backward(grads[0], *ctx.saved),
)


def adaptive_max_pool2d(
    input: Any, output_size: OutputSize, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """y[n, c, p, q] = max of x[n, c, floor(p H / P) : ceil((p + 1) H / P), floor(q W / Q) : ceil((q + 1) W / Q)]

    Args:
      input: (N, C, H, W) or (C, H, W), float32, bfloat16, float16 or float64.
      output_size: (P, Q), or one int for both; None stands for the input's size.
      return_indices: return (y, indices), int64 indices h W + w of the maxima.

    Raises:
      ValueError: a negative output_size, an input without pixels.
      NotImplementedError: another dtype; with indices or a gradient, windows of more than 2^24 pixels.
    """
    op = _adaptive_max_pool2d_with_indices if return_indices else _adaptive_max_pool2d
    return op(input, _adaptive_size(output_size, "adaptive_max_pool2d"))


# ---- average ---------------------------------------------------------------------------------------------------------

_avg_pool2d = _C.Op(
    "avg_pool2d",
    forward=_C.avg_pool2d,
    record=lambda x, *window: (_C.avg_pool2d(x, *window), (x.shape, _C.is_channels_last(x), *window)),
    backward=lambda ctx, grad: _C.avg_pool2d_backward(grad, *ctx.saved),
)


def avg_pool2d(
    input: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """y[n, c, p, q] = sum over i < kh, j < kw of x[n, c, p sh + i - ph, q sw + j - pw] / divisor, outside of x: 0

    The divisor is `divisor_override` if given, else the number of the window's pixels in the padded input, or, without
    `count_include_pad`, in the input. What `ceil_mode` adds beyond the padding never counts. Shapes as max_pool2d.

    Args:
      input: (N, C, H, W) or (C, H, W), float32, bfloat16, float16 or float64.
      kernel_size, stride, padding: an int or (vertical, horizontal), in pixels. stride None: kernel_size.

    Raises:
      ValueError: sizes out of range, padding over half of the window, a window larger than the padded input,
        divisor_override 0.
      NotImplementedError: another dtype.
    """
    kernel_size = pair(kernel_size, "avg_pool2d", "kernel_size")
    divisor = 0
    if divisor_override is not None:
        divisor = integer(divisor_override, "avg_pool2d", "divisor_override")
        if divisor == 0:
            raise ValueError("avg_pool2d: divisor_override is 0; expected another int, or None")
    return _avg_pool2d(
        input,
        kernel_size,
        _stride(stride, kernel_size, "avg_pool2d"),
        pair(padding, "avg_pool2d", "padding"),
        bool(ceil_mode),
        bool(count_include_pad),
        divisor,
    )


_adaptive_avg_pool2d = _C.Op(
    "adaptive_avg_pool2d",
    forward=_C.adaptive_avg_pool2d,
    record=lambda x, size: (_C.adaptive_avg_pool2d(x, size), (x.shape, _C.is_channels_last(x), size)),
    backward=lambda ctx, grad: _C.adaptive_avg_pool2d_backward(grad, *ctx.saved),
)


def adaptive_avg_pool2d(input: Any, output_size: OutputSize) -> Tensor:
    """y[n, c, p, q] = mean of x[n, c, floor(p H / P) : ceil((p + 1) H / P), floor(q W / Q) : ceil((q + 1) W / Q)]

    Args:
      input: (N, C, H, W) or (C, H, W), float32, bfloat16, float16 or float64.
      output_size: (P, Q), or one int for both; None stands for the input's size.

    Raises:
      ValueError: a negative output_size, an input without pixels.
      NotImplementedError: another dtype.
    """
    return _adaptive_avg_pool2d(input, _adaptive_size(output_size, "adaptive_avg_pool2d"))


def _adaptive_size(value: OutputSize, op: str) -> tuple[int, int]:
    """(P, Q) with -1 where the input's size is asked for."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{op}: output_size is {value!r}; expected an int, None, or a pair of those")
        sizes = value
    else:
        sizes = (value, value)
    result = tuple(-1 if size is None else integer(size, op, "output_size") for size in sizes)
    for size, resolved in zip(sizes, result, strict=True):
        if size is not None and resolved < 0:
            raise ValueError(f"{op}: output_size is {value!r}; expected sizes of at least 0, or None")
    return result
