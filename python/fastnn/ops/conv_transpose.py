"""Transposed convolution: the gradient of a convolution with respect to its input, as an op of its own."""

from __future__ import annotations

from .. import _C
from . import arithmetic, shape
from ._arguments import sizes
from .padding import pad


def _forward(input, weight, bias, stride, padding, output_size, dilation, groups):
    out = _C.empty((input.shape[0], weight.shape[1] * groups, *output_size), input.dtype, input.device)
    if _C.is_channels_last(input):
        out = _C.contiguous(out, True)
    out = _C.conv2d_backward(input, out, weight, stride, padding, dilation, groups, True, False, False)[0]
    return out if bias is None else _C.add(out, _C.reshape(bias, (-1, 1, 1)))


def _record(input, weight, bias, stride, padding, output_size, dilation, groups):
    y = _forward(input, weight, bias, stride, padding, output_size, dilation, groups)
    return y, (input, weight, stride, padding, dilation, groups)


def _backward(ctx, grad):
    input, weight, stride, padding, dilation, groups = ctx.saved
    need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
    dx = dw = db = None
    if need_input:
        dx = _C.conv2d(grad, weight, None, stride, padding, dilation, groups, "none", None)
    if need_weight:
        dw = _C.conv2d_backward(input, grad, weight, stride, padding, dilation, groups, False, True, False)[1]
    if need_bias:
        db = _C.sum(grad, (0, 2, 3), False)
    return dx, dw, db


_conv_transpose2d = _C.Op("conv_transpose2d", _forward, _record, _backward)


def _check(op, axes, input, weight, bias, stride, padding, output_padding, groups, dilation):
    """The geometry as tuples: (stride, padding, output_padding, dilation, output size)."""
    if weight.ndim != axes + 2 or input.ndim not in (axes + 1, axes + 2):
        raise ValueError(
            f"{op}: input has shape {tuple(input.shape)} and weight {tuple(weight.shape)}; expected (N, C, ...) or "
            f"(C, ...) with {axes} image axes, and (C, O / groups, ...)"
        )
    stride, padding, output_padding, dilation = (
        sizes(value, axes, op, name)
        for value, name in (
            (stride, "stride"),
            (padding, "padding"),
            (output_padding, "output_padding"),
            (dilation, "dilation"),
        )
    )
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0 or min(output_padding) < 0:
        raise ValueError(
            f"{op}: stride {stride} and dilation {dilation} must be at least 1, padding {padding} and output_padding "
            f"{output_padding} at least 0"
        )
    channels = input.shape[-axes - 1]
    if groups < 1 or channels % groups or weight.shape[0] != channels:
        raise ValueError(
            f"{op}: input has {channels} channels, weight has {weight.shape[0]} and groups is {groups}; expected the "
            "same number of channels, a multiple of groups"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[1] * groups,):
        raise ValueError(f"{op}: bias has shape {tuple(bias.shape)}; expected ({weight.shape[1] * groups},)")
    if any(o >= max(s, d) for o, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise ValueError(
            f"{op}: output_padding is {output_padding}; expected less than stride {stride} or dilation {dilation}"
        )
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip(
            input.shape[-axes:], stride, padding, dilation, weight.shape[2:], output_padding, strict=True
        )
    )
    if min(size) < 1:
        raise ValueError(f"{op}: the output of input {tuple(input.shape)} would have size {size}; use less padding")
    return stride, padding, output_padding, dilation, size


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed 2-d convolution: every input pixel adds its multiple of the kernel to the output.

    y[n, o, i s + u d - p, j s + v d - p] += sum_c input[n, c, i, j] * weight[c, o, u, v]   (+ bias[o])

    which is the gradient of conv2d with respect to its input (Dumoulin and Visin, arXiv:1603.07285).

    Args:
        input: (N, C, H, W) or (C, H, W), row-major or channels_last; the output keeps the layout.
        weight: (C, O / groups, kh, kw). bias: (O,) or None.
        stride, padding, dilation: int or pair. output_padding: rows and columns added at the end, less than the stride
            or the dilation.

    Returns: (N, O, H', W') with H' = (H - 1) s - 2 p + d (kh - 1) + output_padding + 1.

    Raises: as conv2d.
    """
    op = "conv_transpose2d"
    stride, padding, extra, dilation, size = _check(
        op, 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    if input.ndim == 3:
        return shape.squeeze(
            conv_transpose2d(shape.unsqueeze(input, 0), weight, bias, stride, padding, extra, groups, dilation), 0
        )
    top, left = padding
    if all(e < s for e, s in zip(extra, stride, strict=True)):
        return _conv_transpose2d(input, weight, bias, stride, (top, top, left, left), size, dilation, groups)
    # Rows beyond what conv2d may ignore: less padding at the end, and zeros where that is not enough.
    bottom, right = (max(p - e, 0) for p, e in zip(padding, extra, strict=True))
    below, beside = (max(e - p, 0) for p, e in zip(padding, extra, strict=True))
    size = (size[0] - below, size[1] - beside)
    out = _conv_transpose2d(input, weight, None, stride, (top, bottom, left, right), size, dilation, groups)
    out = pad(out, (0, beside, 0, below))
    return out if bias is None else arithmetic.add(out, shape.reshape(bias, (-1, 1, 1)))


def conv_transpose1d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed 1-d convolution: conv_transpose2d on images of one row. input (N, C, W) or (C, W)."""
    stride, padding, extra, dilation, _ = _check(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    image, kernel = shape.unsqueeze(input, -2), shape.unsqueeze(weight, -2)
    out = conv_transpose2d(image, kernel, bias, (1, *stride), (0, *padding), (0, *extra), groups, (1, *dilation))
    return shape.squeeze(out, -2)


def conv_transpose3d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed 3-d convolution: conv_transpose2d of slices with slices of the kernel, added where they fall.

    input (N, C, D, H, W) or (C, D, H, W), weight (C, O / groups, kd, kh, kw); conv_transpose2d has the equation.
    """
    op = "conv_transpose3d"
    stride, padding, extra, dilation, size = _check(
        op, 3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    if input.ndim == 4:
        out = conv_transpose3d(shape.unsqueeze(input, 0), weight, bias, stride, padding, extra, groups, dilation)
        return shape.squeeze(out, 0)
    n, channels, depth = input.shape[:3]
    taps = weight.shape[2]
    slices = shape.reshape(shape.permute(input, (0, 2, 1, 3, 4)), (n * depth, channels, *input.shape[3:]))
    plane = (stride[1:], padding[1:], extra[1:], groups, dilation[1:])
    total = None
    for u in range(taps):
        part = conv_transpose2d(slices, weight[:, :, u], None, *plane)
        part = shape.permute(shape.reshape(part, (n, depth, *part.shape[1:])), (0, 2, 1, 3, 4))
        part = _spread(part, stride[0], u * dilation[0] - padding[0], size[0])
        total = part if total is None else arithmetic.add(total, part)
    return total if bias is None else arithmetic.add(total, shape.reshape(bias, (-1, 1, 1, 1)))


def _spread(x, stride, offset, size):
    """y (N, O, size, H, W) with slice i of x at i * stride + offset, where that is inside, and zeros elsewhere."""
    n, channels, depth, *plane = x.shape
    if stride > 1:
        wide = pad(shape.unsqueeze(x, 3), (0, 0, 0, 0, 0, stride - 1))
        x = shape.reshape(wide, (n, channels, depth * stride, *plane))
    return pad(x, (0, 0, 0, 0, offset, size - offset - x.shape[2]))
