"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import functional as F
from .._arrays import floating_dtype
from ..ops._arguments import sizes
from ..tensor import Tensor
from .linear import empty_parameter, reset_weight_and_bias, size
from .module import Module

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """What convolutions share; `_axes` is the number of dimensions of an image."""

    _axes: int
    _transposed = False

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
            if padding not in ("same", "valid") or self._transposed:
                raise ValueError(f'{name}: padding is {padding!r}; expected "same", "valid", or ints')
            if padding == "same" and max(self.stride) != 1:
                raise ValueError(f'{name}: padding="same" with stride {self.stride}; expected stride 1')
        modes = ("zeros",) if self._transposed else _PADDING_MODES
        if padding_mode not in modes:
            raise ValueError(f"{name}: padding_mode is {padding_mode!r}; expected one of {modes}")
        self.padding_mode = padding_mode
        channels = (self.in_channels, self.out_channels // self.groups)
        if not self._transposed:
            channels = (self.out_channels, self.in_channels // self.groups)
        self.weight = empty_parameter((*channels, *self.kernel_size), dtype)
        self.register_parameter("bias", empty_parameter((self.out_channels,), dtype) if bias else None)
        self.reset_parameters()
        self._place(device)

    def _sizes(self, name: str, value: int | Sequence[int], minimum: int) -> tuple[int, ...]:
        op = type(self).__name__
        values = sizes(value, self._axes, op, name)
        if min(values) < minimum:
            raise ValueError(f"{op}: {name} is {value!r}; expected at least {minimum}")
        return values

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        reset_weight_and_bias(self.weight, self.bias)

    def _pad(self, input: Tensor) -> tuple[Tensor, str | tuple[int, ...]]:
        """The input padded as padding_mode says, and the padding that is left to do with zeros."""
        if self.padding_mode == "zeros":
            return input, self.padding
        widths: list[int] = []
        for axis in reversed(range(self._axes)):
            total = self.dilation[axis] * (self.kernel_size[axis] - 1) if self.padding == "same" else 0
            before = total // 2 if isinstance(self.padding, str) else self.padding[axis]
            widths += [before, total - before if isinstance(self.padding, str) else before]
        return F.pad(input, widths, mode=self.padding_mode), (0,) * self._axes

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self._axes:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._axes:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"


class Conv1d(_Conv):
    """Cross-correlation of sequences, (N, in_channels, L) or (in_channels, L); see functional.conv1d and Conv2d."""

    _axes = 1

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._pad(input)
        return F.conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Two-dimensional cross-correlation of (N, in_channels, H, W) or (in_channels, H, W); see functional.conv2d.

    weight (out_channels, in_channels / groups, *kernel_size) and bias (out_channels,) begin as U(-k, k) with
    k = 1 / sqrt(in_channels / groups * kernel_size[0] * kernel_size[1]).

    Args:
        padding: zeros at each side, or "valid" for none, or "same" for an output of the input's size (stride 1).
        padding_mode: "zeros", "reflect", "replicate" or "circular": how functional.pad fills it.
    """

    _axes = 2

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._pad(input)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv3d(_Conv):
    """Cross-correlation of volumes, (N, in_channels, D, H, W) or (in_channels, D, H, W); see functional.conv3d."""

    _axes = 3

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._pad(input)
        return F.conv3d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class _ConvTranspose(_Conv):
    _transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.output_padding = self._sizes("output_padding", output_padding, 0)

    def _extra(self, input: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """output_padding, or the one that makes an output of `output_size`."""
        if output_size is None:
            return self.output_padding
        name, wanted = type(self).__name__, tuple(output_size)[-self._axes :]
        least = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-self._axes :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        )
        extra = tuple(w - m for w, m in zip(wanted, least, strict=True))
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            most = tuple(m + s - 1 for m, s in zip(least, self.stride, strict=True))
            raise ValueError(f"{name}: output_size is {wanted}; expected sizes from {least} to {most}")
        return extra

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if not any(self.output_padding) else f"{text}, output_padding={self.output_padding}"


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of sequences, (N, in_channels, L) or (in_channels, L); see ConvTranspose2d."""

    _axes = 1

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self._extra(input, output_size)
        return F.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of images, (N, in_channels, H, W) or (in_channels, H, W); see functional.conv_transpose2d.

    weight (in_channels, out_channels / groups, *kernel_size) and bias (out_channels,) begin as U(-k, k) with
    k = 1 / sqrt(out_channels / groups * kernel_size[0] * kernel_size[1]), as in torch.

    Args:
        output_padding: rows and columns added at one end of the output, to choose among the sizes that a strided
            convolution maps to the same input; or give forward() an output_size.
    """

    _axes = 2

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self._extra(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of volumes, (N, in_channels, D, H, W) or (in_channels, D, H, W); see ConvTranspose2d."""

    _axes = 3

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self._extra(input, output_size)
        return F.conv_transpose3d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
