"""Linear layers and changes of shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import functional as F
from .. import init
from .._arrays import floating_dtype
from ..ops._arguments import integer
from ..parameter import Parameter
from ..tensor import Tensor
from .module import Module


def empty_parameter(shape: tuple[int, ...], dtype: Any) -> Parameter:
    """A Parameter for reset_parameters() to fill."""
    return Parameter(np.zeros(shape, dtype))


def size(op: str, name: str, value: int, minimum: int) -> int:
    """`value` as an int of at least `minimum`."""
    value = integer(value, op, name)
    if value < minimum:
        raise ValueError(f"{op}: {name} is {value}; expected at least {minimum}")
    return value


class Linear(Module):
    """y = x W^T + b over the last dimension: (..., in_features) -> (..., out_features).

    weight (out_features, in_features) and bias (out_features,) begin as U(-k, k) with k = 1 / sqrt(in_features).
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        dtype = floating_dtype("Linear", device, dtype)
        self.in_features = size("Linear", "in_features", in_features, 0)
        self.out_features = size("Linear", "out_features", out_features, 0)
        self.weight = empty_parameter((self.out_features, self.in_features), dtype)
        self.register_parameter("bias", empty_parameter((self.out_features,), dtype) if bias else None)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        reset_weight_and_bias(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def reset_weight_and_bias(weight: Parameter, bias: Parameter | None) -> None:
    """U(-k, k) with k = 1 / sqrt(fan_in) for both, torch's initial values of linear and convolution layers."""
    init.kaiming_uniform_(weight, a=math.sqrt(5))  # sqrt(3) gain(sqrt(5)) = 1
    if bias is not None:
        fan_in, _ = init._calculate_fan_in_and_fan_out(weight)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        init.uniform_(bias, -bound, bound)


class Identity(Module):
    """y = x. Takes any arguments and looks at none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Flatten(Module):
    """Merges the dimensions start_dim to end_dim, both included, into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        shape = input.shape
        ndim = len(shape) or 1
        start = _axis("Flatten", "start_dim", self.start_dim, ndim)
        end = _axis("Flatten", "end_dim", self.end_dim, ndim)
        if start > end:
            raise ValueError(f"Flatten: start_dim {start} comes after end_dim {end} for input of shape {shape}")
        return input.reshape((*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits dimension dim into dimensions of the given sizes, one of which may be -1."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(unflattened_size, Sequence) or isinstance(unflattened_size, str):
            raise TypeError(f"Unflatten: unflattened_size is {unflattened_size!r}; expected a sequence of ints")
        self.dim = size("Unflatten", "dim", dim, -8)
        self.unflattened_size = tuple(size("Unflatten", "unflattened_size", s, -1) for s in unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        shape = input.shape
        dim = _axis("Unflatten", "dim", self.dim, len(shape))
        sizes = self.unflattened_size
        known = math.prod(s for s in sizes if s != -1)
        if sizes.count(-1) == 1 and known and shape[dim] % known == 0:
            sizes = tuple(shape[dim] // known if s == -1 else s for s in sizes)
        if -1 in sizes or math.prod(sizes) != shape[dim]:
            raise ValueError(f"Unflatten: size {shape[dim]} of dimension {dim} cannot become {self.unflattened_size}")
        return input.reshape((*shape[:dim], *sizes, *shape[dim + 1 :]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


def _axis(op: str, name: str, axis: int, ndim: int) -> int:
    if not -ndim <= axis < ndim:
        raise IndexError(f"{op}: {name} is {axis}; expected between {-ndim} and {ndim - 1} for {ndim} dimensions")
    return axis % ndim
