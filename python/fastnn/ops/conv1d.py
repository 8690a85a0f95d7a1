"""1-d convolution: the 2-d one on images of one row."""

from __future__ import annotations

from . import shape
from ._arguments import single
from .conv2d import conv2d


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, activation=None, residual=None):
    """1-d convolution (cross-correlation); conv2d has the equation.

    Args:
        input: (N, C, W) or (C, W). weight: (O, C / groups, k). bias: (O,) or None.
        stride, dilation: int or a sequence of one. padding: the same, "same" (stride 1 only) or "valid".
        activation, residual: as in conv2d.

    Returns: (N, O, W') or (O, W'), W' = floor((W + 2 padding - dilation (k - 1) - 1) / stride) + 1.

    Raises: as conv2d.
    """
    if weight.ndim != 3 or input.ndim not in (2, 3):
        raise ValueError(
            f"conv1d: input has shape {tuple(input.shape)} and weight {tuple(weight.shape)}; expected (N, C, W) or "
            "(C, W), and (O, C / groups, k)"
        )
    if not isinstance(padding, str):
        padding = (0, single(padding, "conv1d", "padding"))
    out = conv2d(
        shape.unsqueeze(input, -2),
        shape.unsqueeze(weight, -2),
        bias,
        (1, single(stride, "conv1d", "stride")),
        padding,
        (1, single(dilation, "conv1d", "dilation")),
        groups,
        activation=activation,
        residual=None if residual is None else shape.unsqueeze(residual, -2),
    )
    return shape.squeeze(out, -2)
