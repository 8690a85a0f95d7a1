"""2-d convolution."""

from __future__ import annotations

from .. import _C
from ._arguments import pair


def _record(input, weight, bias, stride, padding, dilation, groups, activation, residual):
    y = _C.conv2d(input, weight, bias, stride, padding, dilation, groups, activation, residual)
    return y, (input, weight, None if activation == "none" else y, stride, padding, dilation, groups, activation)


def _backward(ctx, grad):
    input, weight, y, stride, padding, dilation, groups, activation = ctx.saved
    need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
    if y is not None:
        grad = _C.activation_backward(activation, y, grad, 0.0, 0.0)
    gradients = _C.conv2d_backward(
        grad, input, weight, stride, padding, dilation, groups, need_input, need_weight, need_bias
    )
    if ctx.needs_input_grad[8]:
        return *gradients, None, None, None, None, None, grad
    return gradients


_conv2d = _C.Op("conv2d", _C.conv2d, _record, _backward)


def _explicit_padding(padding, weight_shape, stride, dilation):
    """(top, bottom, left, right) of a padding given as int, pair, "same" or "valid"."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0, 0, 0)
        if padding != "same":
            raise ValueError(f"conv2d: padding is {padding!r}; expected 'same', 'valid', an int or a pair of ints")
        if stride != (1, 1):
            raise ValueError(f"conv2d: padding='same' needs stride 1, got stride {stride}")
        totals = [d * (k - 1) for d, k in zip(dilation, weight_shape[-2:], strict=True)]
        return (totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2)
    rows, columns = pair(padding, "conv2d", "padding")
    return (rows, rows, columns, columns)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, activation=None, residual=None):
    """2-d convolution (cross-correlation), with an optional fused residual and activation.

    y[n, o, i, j] = f(bias[o] + residual[n, o, i, j]
                      + sum_{c, u, v} weight[o, c, u, v] * input[n, g C/G + c, i s + u d - p, j s + v d - p])

    with G groups, g the group of output channel o, stride s, padding p and dilation d per axis; the input counts as
    zero outside of its area. Sums are accumulated in float32 (float64 for float64).

    Args:
        input: (N, C, H, W) or (C, H, W), row-major or channels_last; the output keeps the layout.
        weight: (O, C / groups, kh, kw). bias: (O,) or None.
        stride, dilation: int or pair. padding: int, pair, "same" (stride 1 only) or "valid".
        activation: None or "relu". residual: shape of the output, or None.

    Returns: (N, O, H', W') with H' = floor((H + 2 p - d (kh - 1) - 1) / s) + 1, in the dtype of the input: float32,
    bfloat16, float16 or float64.

    Raises: ValueError for shapes or values that do not fit, TypeError for mixed dtypes, NotImplementedError for others.
    """
    stride = pair(stride, "conv2d", "stride")
    dilation = pair(dilation, "conv2d", "dilation")
    padding = _explicit_padding(padding, weight.shape, stride, dilation)
    return _conv2d(input, weight, bias, stride, padding, dilation, groups, activation or "none", residual)
