"""Pooling over the last two dimensions, of (N, C, H, W) or (C, H, W)."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ._common import Size2d, as_float64, pair, quiet

Pair = tuple[int, int]


@quiet
def max_pool2d(
    input: ArrayLike,
    kernel_size: Size2d,
    stride: Size2d | None = None,
    padding: Size2d = 0,
    dilation: Size2d = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """y[p, q] = max_{i, j} x[p sh + i dh - ph, q sw + j dw - pw] over the taps inside of the image

    P = floor((H + 2 ph - dh (kh - 1) - 1) / sh) + 1, or ceil; in ceil_mode a last window that would start in the right
    padding is dropped. stride None is kernel_size.

    Indices are h W + w, int64: of the first maximum, or of the last NaN if the window holds one. A window without a tap
    inside of the image (dilation can skip a narrow one) gives -inf and index -1.
    """
    x = _images("max_pool2d", input)
    kernel, stride, padding = _window("max_pool2d", kernel_size, stride, padding)
    dilation = pair("max_pool2d", "dilation", dilation, 1)
    size = _output_size("max_pool2d", x, kernel, stride, padding, dilation, ceil_mode)
    best = np.full(x.shape[:-2] + size, -np.inf)
    index = np.full(best.shape, -1, dtype=np.int64)
    for rows, columns, inside, value in _taps(x, size, kernel, stride, padding, dilation):
        # index < 0 lets the first tap in even when it is -inf.
        take = inside & ((value > best) | np.isnan(value) | (index < 0))
        best = np.where(take, value, best)
        index = np.where(take, rows * x.shape[-1] + columns, index)
    return (best, index) if return_indices else best


@quiet
def avg_pool2d(
    input: ArrayLike,
    kernel_size: Size2d,
    stride: Size2d | None = None,
    padding: Size2d = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """y[p, q] = sum_{i, j} x[p sh + i - ph, q sw + j - pw] / divisor, over the taps inside of the image

    divisor: divisor_override if given, else the taps inside of the padded image (count_include_pad) or of the image.
    What ceil_mode adds beyond the padding never counts. Output size as max_pool2d.
    """
    x = _images("avg_pool2d", input)
    kernel, stride, padding = _window("avg_pool2d", kernel_size, stride, padding)
    if divisor_override == 0:
        raise ValueError("avg_pool2d: divisor_override is 0; expected another number, or None")
    size = _output_size("avg_pool2d", x, kernel, stride, padding, (1, 1), ceil_mode)
    total, divisor = np.zeros(x.shape[:-2] + size), np.zeros(size)
    bottom, right = x.shape[-2] + padding[0], x.shape[-1] + padding[1]
    for rows, columns, inside, value in _taps(x, size, kernel, stride, padding, (1, 1)):
        total += np.where(inside, value, 0.0)
        divisor += (rows < bottom) & (columns < right) if count_include_pad else inside
    return total / (divisor if divisor_override is None else divisor_override)


@quiet
def adaptive_avg_pool2d(input: ArrayLike, output_size: int | None | Sequence[int | None]) -> np.ndarray:
    """y[p, q] = mean of x[floor(p H / P) : ceil((p + 1) H / P), the same of q, W and Q]

    output_size: P = Q, or (P, Q); None stands for the input's size.
    """
    x = _images("adaptive_avg_pool2d", input)
    output = np.empty(x.shape[:-2] + _adaptive_size("adaptive_avg_pool2d", x, output_size))
    for p, q, rows, columns in _adaptive_windows(x.shape[-2:], output.shape[-2:]):
        output[..., p, q] = x[..., rows, columns].mean(axis=(-2, -1))
    return output


def adaptive_max_pool2d(
    input: ArrayLike, output_size: int | None | Sequence[int | None], return_indices: bool = False
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """y[p, q] = max of the window of adaptive_avg_pool2d. Indices are h W + w, int64, as in max_pool2d."""
    x = _images("adaptive_max_pool2d", input)
    output = np.empty(x.shape[:-2] + _adaptive_size("adaptive_max_pool2d", x, output_size))
    index = np.empty(output.shape, dtype=np.int64)
    for p, q, rows, columns in _adaptive_windows(x.shape[-2:], output.shape[-2:]):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        window = x[..., rows, columns].reshape(*x.shape[:-2], height * width)
        nan = np.isnan(window)
        last_nan = height * width - 1 - nan[..., ::-1].argmax(axis=-1)
        where = np.where(nan.any(axis=-1), last_nan, window.argmax(axis=-1))
        output[..., p, q] = np.take_along_axis(window, where[..., None], axis=-1)[..., 0]
        index[..., p, q] = (rows.start + where // width) * x.shape[-1] + columns.start + where % width
    return (output, index) if return_indices else output


def _images(op: str, input: ArrayLike) -> np.ndarray:
    x = as_float64(input)
    if x.ndim not in (3, 4) or 0 in x.shape[-3:]:
        raise ValueError(f"{op}: input has shape {x.shape}; expected (N, C, H, W) or (C, H, W), only N may be 0")
    return x


def _window(op: str, kernel_size: Size2d, stride: Size2d | None, padding: Size2d) -> tuple[Pair, Pair, Pair]:
    kernel = pair(op, "kernel_size", kernel_size, 1)
    return kernel, kernel if stride is None else pair(op, "stride", stride, 1), pair(op, "padding", padding, 0)


def _output_size(op: str, x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool) -> Pair:
    sizes = []
    for size, k, s, p, d in zip(x.shape[-2:], kernel, stride, padding, dilation, strict=True):
        extent = d * (k - 1) + 1
        if p > extent // 2:
            raise ValueError(f"{op}: padding is {padding}; expected at most half of the kernel's extent {extent}")
        out = (size + 2 * p - extent + (s - 1 if ceil else 0)) // s + 1
        if ceil and (out - 1) * s >= size + p:
            out -= 1
        if out < 1:
            raise ValueError(f"{op}: kernel of extent {extent} does not fit the padded input size {size + 2 * p}")
        sizes.append(out)
    return sizes[0], sizes[1]


def _taps(
    x: np.ndarray, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each kernel tap, in row-major order: rows (P, 1), columns (1, Q), inside (P, Q), x there (..., P, Q).

    Where a tap is not inside of the image, x is some other pixel: use `inside`.
    """
    height, width = x.shape[-2:]
    for i, j in np.ndindex(kernel):
        rows = np.arange(size[0])[:, None] * stride[0] + i * dilation[0] - padding[0]
        columns = np.arange(size[1])[None, :] * stride[1] + j * dilation[1] - padding[1]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        yield rows, columns, inside, x[..., rows.clip(0, height - 1), columns.clip(0, width - 1)]


def _adaptive_size(op: str, x: np.ndarray, output_size: int | None | Sequence[int | None]) -> Pair:
    sizes = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(sizes) != 2:
        raise ValueError(f"{op}: output_size is {output_size}; expected an int or two")
    return pair(op, "output_size", [n if m is None else m for m, n in zip(sizes, x.shape[-2:], strict=True)], 0)


def _adaptive_windows(input_size: Pair, output_size: Pair) -> Iterator[tuple[int, int, slice, slice]]:
    (height, width), (out_h, out_w) = input_size, output_size
    for p, q in np.ndindex(out_h, out_w):
        rows = slice(p * height // out_h, -(-(p + 1) * height // out_h))
        yield p, q, rows, slice(q * width // out_w, -(-(q + 1) * width // out_w))
