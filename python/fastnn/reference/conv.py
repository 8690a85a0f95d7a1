"""Convolution."""

import numpy as np
from numpy.typing import ArrayLike

from ._common import Size2d, as_float64, pair, quiet


@quiet
def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Size2d = 1,
    padding: Size2d | str = 0,
    dilation: Size2d = 1,
    groups: int = 1,
) -> np.ndarray:
    """Cross-correlation over zero-padded images:

        y[n, o, p, q] = b[o] + sum_{c, i, j} w[o, c, i, j] x[n, g C/G + c, p sh + i dh - ph, q sw + j dw - pw]
        with g = floor(o G / O) and P = floor((H + 2 ph - dh (kh - 1) - 1) / sh) + 1, Q alike

    input (N, C, H, W) or (C, H, W), weight (O, C/G, kh, kw), bias (O,) -> (N, O, P, Q) or (O, P, Q).
    padding "valid" is 0. "same" (stride 1 only) pads d (k - 1) in all, and an odd one goes to the bottom or right.
    """
    x, w = as_float64(input), as_float64(weight)
    if x.ndim not in (3, 4) or w.ndim != 4:
        raise ValueError(
            f"conv2d: input has shape {x.shape} and weight {w.shape}; "
            "expected (N, C, H, W) or (C, H, W), and (O, C/G, kh, kw)"
        )
    batched = x if x.ndim == 4 else x[None]
    (n, channels, height, width), (out_channels, group_channels, kh, kw) = batched.shape, w.shape
    if groups < 1 or out_channels % groups or channels != group_channels * groups:
        raise ValueError(
            f"conv2d: input has {channels} channels, weight has shape {w.shape} and groups={groups}; "
            "expected input channels = weight.shape[1] * groups and weight.shape[0] divisible by groups"
        )
    sh, sw = pair("conv2d", "stride", stride, 1)
    dh, dw = pair("conv2d", "dilation", dilation, 1)
    (top, bottom), (left, right) = _padding(padding, (sh, sw), (dh * (kh - 1), dw * (kw - 1)))
    out_h = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
    out_w = (width + left + right - dw * (kw - 1) - 1) // sw + 1
    if min(kh, kw, out_h, out_w) < 1:
        raise ValueError(
            f"conv2d: kernel {(kh, kw)} with dilation {(dh, dw)} does not fit the padded input "
            f"{(height + top + bottom, width + left + right)}; expected an output of at least 1 x 1"
        )

    padded = np.pad(batched, ((0, 0), (0, 0), (top, bottom), (left, right)))
    by_group = (groups, out_channels // groups, group_channels)
    output = np.zeros((n, groups, out_channels // groups, out_h * out_w))
    # One matrix product per kernel tap: fast enough, and no copy of the input kh * kw times as large.
    for i, j in np.ndindex(kh, kw):
        rows = slice(i * dh, i * dh + (out_h - 1) * sh + 1, sh)
        columns = slice(j * dw, j * dw + (out_w - 1) * sw + 1, sw)
        tap = padded[:, :, rows, columns].reshape(n, groups, group_channels, out_h * out_w)
        output += w[:, :, i, j].reshape(by_group) @ tap
    output = output.reshape(n, out_channels, out_h, out_w)
    if bias is not None:
        output += as_float64(bias).reshape(out_channels, 1, 1)
    return output if x.ndim == 4 else output[0]


def _padding(
    padding: Size2d | str, stride: tuple[int, int], reach: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)); `reach` is d (k - 1), how far the last tap lies from the first."""
    if not isinstance(padding, str):
        vertical, horizontal = pair("conv2d", "padding", padding, 0)
        return (vertical, vertical), (horizontal, horizontal)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise ValueError(f'conv2d: padding is {padding!r}; expected an int, two ints, "same" or "valid"')
    if stride != (1, 1):
        raise ValueError(f'conv2d: padding="same" with stride {stride}; expected stride 1')
    return (reach[0] // 2, reach[0] - reach[0] // 2), (reach[1] // 2, reach[1] - reach[1] // 2)
