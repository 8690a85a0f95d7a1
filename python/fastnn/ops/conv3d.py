"""3-d convolution: the 2-d one on slices, whose channels are those of the slices that the kernel's depth reaches."""

from __future__ import annotations

from . import shape
from ._arguments import sizes
from .conv2d import conv2d
from .padding import pad


def _depth_padding(padding, kernel, stride, dilation):
    """((before, after) in depth, what conv2d takes for the other axes)."""
    if not isinstance(padding, str):
        depth, *rest = sizes(padding, 3, "conv3d", "padding")
        return (depth, depth), tuple(rest)
    if padding == "same" and stride[0] == 1:
        total = dilation[0] * (kernel - 1)
        return (total // 2, total - total // 2), padding
    return (0, 0), padding  # conv2d checks the rest


def conv3d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """3-d convolution (cross-correlation); conv2d has the equation, of which this is the sum over a third axis.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W). weight: (O, C / groups, kd, kh, kw). bias: (O,) or None.
        stride, dilation: int or three. padding: the same, "same" (stride 1 only) or "valid".

    Returns: (N, O, D', H', W') or (O, D', H', W'), each size as in conv2d. The slices that the kernel spans are copied:
    the call needs kd times the memory of the input.

    Raises: as conv2d.
    """
    if weight.ndim != 5 or input.ndim not in (4, 5):
        raise ValueError(
            f"conv3d: input has shape {tuple(input.shape)} and weight {tuple(weight.shape)}; expected (N, C, D, H, W) "
            "or (C, D, H, W), and (O, C / groups, kd, kh, kw)"
        )
    if input.ndim == 4:
        return shape.squeeze(conv3d(shape.unsqueeze(input, 0), weight, bias, stride, padding, dilation, groups), 0)
    stride, dilation = (sizes(v, 3, "conv3d", name) for v, name in ((stride, "stride"), (dilation, "dilation")))
    if min(stride) < 1 or min(dilation) < 1:
        raise ValueError(f"conv3d: stride is {stride} and dilation {dilation}; expected at least 1")
    out_channels, channels, taps = weight.shape[:3]
    if channels * groups != input.shape[1]:
        raise ValueError(
            f"conv3d: weight has {channels} input channels per group but input has {input.shape[1]} channels and "
            f"groups={groups}; expected weight of shape ({out_channels}, {input.shape[1] // max(groups, 1)}, ...)"
        )
    depth_padding, plane_padding = _depth_padding(padding, taps, stride, dilation)
    if min(depth_padding) < 0:
        raise ValueError(f"conv3d: padding is {padding}; expected at least 0")
    if any(depth_padding):
        input = pad(input, (0, 0, 0, 0, *depth_padding))
    n, depth = input.shape[0], (input.shape[2] - dilation[0] * (taps - 1) - 1) // stride[0] + 1
    if depth < 1:
        raise ValueError(
            f"conv3d: the kernel spans {dilation[0] * (taps - 1) + 1} slices but the padded input has {input.shape[2]}"
        )
    slices = [
        input[:, :, u * dilation[0] : u * dilation[0] + (depth - 1) * stride[0] + 1 : stride[0]] for u in range(taps)
    ]
    stacked = shape.permute(shape.stack(slices, 2), (0, 3, 1, 2, 4, 5))  # (N, D', C, kd, H, W)
    planes = shape.reshape(stacked, (n * depth, input.shape[1] * taps, *input.shape[3:]))
    kernel = shape.reshape(weight, (out_channels, channels * taps, *weight.shape[3:]))
    out = conv2d(planes, kernel, bias, stride[1:], plane_padding, dilation[1:], groups)
    return shape.permute(shape.reshape(out, (n, depth, *out.shape[1:])), (0, 2, 1, 3, 4))
