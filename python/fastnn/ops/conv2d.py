"""2-d convolution."""

from __future__ import annotations

from .. import _C
from ._arguments import pair
from ._epilogue import check_epilogue, epilogue_backward, record_epilogue


def _record(input, weight, bias, stride, padding, dilation, groups, activation, residual):
    y, kept = record_epilogue(
        lambda f: _C.conv2d(input, weight, bias, stride, padding, dilation, groups, f, residual), activation
    )
    return y, (input, weight, kept, stride, padding, dilation, groups, activation)


def _backward(ctx, grad):
    input, weight, kept, stride, padding, dilation, groups, activation = ctx.saved
    grad = epilogue_backward(activation, kept, grad)
    gradients = _C.conv2d_backward(grad, input, weight, stride, padding, dilation, groups, *ctx.needs_input_grad[:3])
    if ctx.needs_input_grad[8]:
        return *gradients, None, None, None, None, None, grad
    return gradients


_conv2d = _C.Op("conv2d", _C.conv2d, _record, _backward)


def _record_pool(input, weight, bias, stride, padding, dilation, groups, activation):
    y, position = _C.conv2d_pool(input, weight, bias, stride, padding, dilation, groups, activation, True)
    return y, (input, weight, y, position, stride, padding, dilation, groups, activation)


def _backward_pool(ctx, grad):
    input, weight, y, position, stride, padding, dilation, groups, activation = ctx.saved
    if activation != "none":
        grad = _C.activation_backward(activation, y, grad, 0.0, 0.0)
    size = [
        (input.shape[2 + i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (weight.shape[2 + i] - 1) - 1)
        // stride[i]
        + 1
        for i in (0, 1)
    ]
    shape = (*y.shape[:2], *size)
    grad = _C.max_pool2d_backward(grad, position, shape, _C.is_channels_last(y), (2, 2), (2, 2), (0, 0), (1, 1), False)
    return _C.conv2d_backward(grad, input, weight, stride, padding, dilation, groups, *ctx.needs_input_grad[:3])


_conv2d_pool = _C.Op("conv2d", lambda *arguments: _C.conv2d_pool(*arguments, False)[0], _record_pool, _backward_pool)


def _conv2d_max_pool(input, weight, bias, stride, padding, dilation, groups, activation):
    """max_pool2d(activation(conv2d(...)), 2) in one kernel; what Sequential makes of these neighbours."""
    padding = _explicit_padding(padding, weight.shape, stride, dilation)
    return _conv2d_pool(input, weight, bias, stride, padding, dilation, groups, activation)


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
    zero outside of its area. Sums are accumulated in float32 (float64 for float64). For float32, 3x3 or 5x5 kernels,
    stride 1 and at least 16 channels they are rearranged by Winograd's F(4x4, 3x3) and F(2x2, 5x5) unless
    `fastnn.set_precision("exact")`. From its second use on, a Tensor that serves as weight keeps a copy in the layout
    of the kernels, until it is changed or released; not while a numpy or DLPack view of it lives.

    Args:
        input: (N, C, H, W) or (C, H, W), row-major or channels_last; the output keeps the layout.
        weight: (O, C / groups, kh, kw). bias: (O,) or None.
        stride, dilation: int or pair. padding: int, pair, "same" (stride 1 only) or "valid".
        activation: None, "relu", "relu6", "gelu", "gelu_tanh", "silu", "mish", "sigmoid", "tanh", "hardswish",
            "hardsigmoid" or "softsign". residual: shape of the output, or None.

    Returns: (N, O, H', W') with H' = floor((H + 2 p - d (kh - 1) - 1) / s) + 1, in the dtype of the input: float32,
    bfloat16, float16 or float64.

    Raises: ValueError for shapes or values that do not fit, TypeError for mixed dtypes, NotImplementedError for others.
    """
    stride = pair(stride, "conv2d", "stride")
    dilation = pair(dilation, "conv2d", "dilation")
    padding = _explicit_padding(padding, weight.shape, stride, dilation)
    return _conv2d(
        input, weight, bias, stride, padding, dilation, groups, check_epilogue("conv2d", activation), residual
    )
