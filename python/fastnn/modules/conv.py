"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import functional as F
from .._arrays import floating_dtype
from ..ops._arguments import pair, single
from ..tensor import Tensor
from .linear import empty_parameter, reset_weight_and_bias, size
from .module import Module


class _Conv(Module):
    """What convolutions share; `_axes` is the number of dimensions of an image."""

    _axes: int

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
        name = type(self).__name__
        dtype = floating_dtype(name, device, dtype)
        self.in_channels = size(name, "in_channels", in_channels, 1)
        self.out_channels = size(name, "out_channels", out_channels, 1)
        self.groups = size(name, "groups", groups, 1)
        for what, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name}: {what} is {channels}; expected a multiple of groups, {groups}")
        self.kernel_size = self._sizes("kernel_size", kernel_size, 1)
        self.stride = self._sizes("stride", stride, 1)
        self.dilation = self._sizes("dilation", dilation, 1)
        self.padding = padding if isinstance(padding, str) else self._sizes("padding", padding, 0)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f'{name}: padding is {padding!r}; expected "same", "valid", or ints')
            if padding == "same" and max(self.stride) != 1:
                raise ValueError(f'{name}: padding="same" with stride {self.stride}; expected stride 1')
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f'{name}: padding_mode is {padding_mode!r}; expected "zeros"')
        if padding_mode != "zeros":
            raise NotImplementedError(f'{name}: padding_mode {padding_mode!r} is not supported; expected "zeros"')
        self.padding_mode = padding_mode
        self.weight = empty_parameter((self.out_channels, self.in_channels // self.groups, *self.kernel_size), dtype)
        self.register_parameter("bias", empty_parameter((self.out_channels,), dtype) if bias else None)
        self.reset_parameters()

    def _sizes(self, name: str, value: int | Sequence[int], minimum: int) -> tuple[int, ...]:
        op = type(self).__name__
        values = pair(value, op, name) if self._axes == 2 else (single(value, op, name),)
        if min(values) < minimum:
            raise ValueError(f"{op}: {name} is {value!r}; expected at least {minimum}")
        return values

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        reset_weight_and_bias(self.weight, self.bias)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self._axes:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._axes:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"


class Conv1d(_Conv):
    """Cross-correlation of sequences, (N, in_channels, L) or (in_channels, L); see functional.conv1d and Conv2d."""

    _axes = 1

    def forward(self, input: Tensor) -> Tensor:
        return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Two-dimensional cross-correlation of (N, in_channels, H, W) or (in_channels, H, W); see functional.conv2d.

    weight (out_channels, in_channels / groups, *kernel_size) and bias (out_channels,) begin as U(-k, k) with
    k = 1 / sqrt(in_channels / groups * kernel_size[0] * kernel_size[1]).

    Args:
        padding: zeros at each side, or "valid" for none, or "same" for an output of the input's size (stride 1).
        padding_mode: "zeros".
    """

    _axes = 2

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
