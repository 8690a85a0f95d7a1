"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import functional as F
from .._arrays import floating_dtype
from ..ops._arguments import pair
from ..tensor import Tensor
from .linear import empty_parameter, reset_weight_and_bias, size
from .module import Module


class Conv2d(Module):
    """Two-dimensional cross-correlation of (N, in_channels, H, W) or (in_channels, H, W); see functional.conv2d.

    weight (out_channels, in_channels / groups, *kernel_size) and bias (out_channels,) begin as U(-k, k) with
    k = 1 / sqrt(in_channels / groups * kernel_size[0] * kernel_size[1]).

    Args:
        padding: zeros at each side, or "valid" for none, or "same" for an output of the input's size (stride 1).
        padding_mode: "zeros".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dtype = floating_dtype("Conv2d", device, dtype)
        self.in_channels = size("Conv2d", "in_channels", in_channels, 1)
        self.out_channels = size("Conv2d", "out_channels", out_channels, 1)
        self.groups = size("Conv2d", "groups", groups, 1)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"Conv2d: {name} is {channels}; expected a multiple of groups, {groups}")
        self.kernel_size = _pair("kernel_size", kernel_size, 1)
        self.stride = _pair("stride", stride, 1)
        self.dilation = _pair("dilation", dilation, 1)
        self.padding = padding if isinstance(padding, str) else _pair("padding", padding, 0)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f'Conv2d: padding is {padding!r}; expected "same", "valid", an int or two ints')
            if padding == "same" and self.stride != (1, 1):
                raise ValueError(f'Conv2d: padding="same" with stride {self.stride}; expected stride 1')
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f'Conv2d: padding_mode is {padding_mode!r}; expected "zeros"')
        if padding_mode != "zeros":
            raise NotImplementedError(f'Conv2d: padding_mode {padding_mode!r} is not supported; expected "zeros"')
        self.padding_mode = padding_mode
        self.weight = empty_parameter((self.out_channels, self.in_channels // self.groups, *self.kernel_size), dtype)
        self.register_parameter("bias", empty_parameter((self.out_channels,), dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        reset_weight_and_bias(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"


def _pair(name: str, value: int | Sequence[int], minimum: int) -> tuple[int, int]:
    values = pair(value, "Conv2d", name)
    if min(values) < minimum:
        raise ValueError(f"Conv2d: {name} is {value!r}; expected at least {minimum}")
    return values
