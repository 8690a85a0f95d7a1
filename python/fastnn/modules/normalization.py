"""Normalization layers. Equations stand at the functions they call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _C, init
from .. import functional as F
from .._arrays import floating_dtype
from ..ops._arguments import integer
from ..tensor import Tensor, tensor
from .linear import empty_parameter, size
from .module import Module


class _Norm(Module):
    """A module with a weight of ones and a bias of zeros, or None where they are not wanted."""

    def _add_parameters(self, shape: tuple[int, ...], weight: bool, bias: bool, dtype: Any) -> None:
        self.register_parameter("weight", empty_parameter(shape, dtype) if weight else None)
        self.register_parameter("bias", empty_parameter(shape, dtype) if bias else None)

    def reset_parameters(self) -> None:
        """Sets weight to 1 and bias to 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


# ---- of channels -----------------------------------------------------------------------------------------------------


class _ChannelNorm(_Norm):
    """num_features channels with running statistics."""

    _ranks: tuple[int, ...]  # of the input

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any,
        dtype: Any,
        bias: bool,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        dtype = floating_dtype(name, device, dtype)
        self.num_features = size(name, "num_features", num_features, 0)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._add_parameters((self.num_features,), affine, affine and bias, dtype)
        if track_running_stats:
            self.register_buffer("running_mean", tensor(np.zeros(self.num_features), dtype=dtype))
            self.register_buffer("running_var", tensor(np.ones(self.num_features), dtype=dtype))
            self.register_buffer("num_batches_tracked", tensor(np.zeros((), np.int64)))
        else:
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                self.register_buffer(buffer, None)
        self.reset_parameters()
        self._place(device)

    def reset_running_stats(self) -> None:
        """Sets the running mean to 0, the running variance to 1, and the number of batches to 0."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Sets the running statistics, weight and bias to their initial values."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_rank(self, input: Tensor) -> None:
        if input.ndim not in self._ranks:
            ranks = " or ".join(f"{rank}D" for rank in self._ranks)
            raise ValueError(f"{type(self).__name__}: expected {ranks} input (got {input.ndim}D input)")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_ChannelNorm):
    """functional.batch_norm. The running statistics are used in eval mode, and updated in training mode.

    Args:
        num_features: C.
        momentum: share of a new batch in the running statistics; None: of the n-th batch 1 / n, the plain average.
        affine, bias: whether there is a weight, of ones at first, and a bias, of zeros.
        track_running_stats: False: no running statistics; eval mode uses those of the batch, too.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_rank(input)
        mean, var, momentum = self.running_mean, self.running_var, self.momentum
        update = self.training and self.track_running_stats
        if not update:
            training = self.training or (mean is None and var is None)
            if training:
                mean = var = None
            return F.batch_norm(input, mean, var, self.weight, self.bias, training, momentum or 0.0, self.eps)
        if momentum is None:
            momentum = 1.0 / (self.num_batches_tracked.item() + 1)
        y = F.batch_norm(input, mean, var, self.weight, self.bias, True, momentum, self.eps)
        if self.num_batches_tracked is not None:
            _C.add_in_place(self.num_batches_tracked, 1)
        return y


class BatchNorm1d(_BatchNorm):
    __doc__ = f"(N, C) or (N, C, L). {_BatchNorm.__doc__}"
    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = f"(N, C, H, W). {_BatchNorm.__doc__}"
    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = f"(N, C, D, H, W). {_BatchNorm.__doc__}"
    _ranks = (5,)


class _InstanceNorm(_ChannelNorm):
    """functional.instance_norm. An input may lack N.

    Args:
        num_features: C.
        momentum: share of a new batch in the running statistics.
        affine, bias: whether there is a weight, of ones at first, and a bias, of zeros.
        track_running_stats: keep running statistics, and use them in eval mode.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_rank(input)
        shape = input.shape
        channels = shape[-self._ranks[0]]
        if channels != self.num_features:
            text = (
                f"{type(self).__name__}: input of shape {shape} has {channels} channels; expected {self.num_features}"
            )
            if self.affine:
                raise ValueError(text)
            warnings.warn(f"{text}, which is not used because affine=False", stacklevel=2)
        batched = input if len(shape) == self._ranks[1] else input.reshape((1, *shape))
        use_input = self.training or not self.track_running_stats
        y = F.instance_norm(
            batched, self.running_mean, self.running_var, self.weight, self.bias, use_input, self.momentum, self.eps
        )
        return y if batched is input else y.reshape(shape)


class InstanceNorm1d(_InstanceNorm):
    __doc__ = f"(N, C, L) or (C, L). {_InstanceNorm.__doc__}"
    _ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    __doc__ = f"(N, C, H, W) or (C, H, W). {_InstanceNorm.__doc__}"
    _ranks = (3, 4)


class GroupNorm(_Norm):
    """functional.group_norm of (N, num_channels, ...).

    Args:
        num_groups: a divisor of num_channels.
        affine, bias: whether there is a weight, of ones at first, and a bias, of zeros.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        dtype = floating_dtype("GroupNorm", device, dtype)
        self.num_groups = size("GroupNorm", "num_groups", num_groups, 1)
        self.num_channels = size("GroupNorm", "num_channels", num_channels, 0)
        if self.num_channels % self.num_groups:
            raise ValueError(f"GroupNorm: num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.eps = eps
        self.affine = affine
        self._add_parameters((self.num_channels,), affine, affine and bias, dtype)
        self.reset_parameters()
        self._place(device)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


# ---- over the last dimensions ----------------------------------------------------------------------------------------


def _shape(op: str, value: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(value, (tuple, list)):
        return tuple(integer(v, op, "normalized_shape") for v in value)
    return (integer(value, op, "normalized_shape"),)


class LayerNorm(_Norm):
    """functional.layer_norm of (..., *normalized_shape).

    Args:
        normalized_shape: the sizes of the last dimensions; an int for one.
        elementwise_affine, bias: whether there is a weight, of ones at first, and a bias, of zeros.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dtype = floating_dtype("LayerNorm", device, dtype)
        self.normalized_shape = _shape("LayerNorm", normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._add_parameters(self.normalized_shape, elementwise_affine, elementwise_affine and bias, dtype)
        self.reset_parameters()
        self._place(device)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """functional.rms_norm of (..., *normalized_shape).

    Args:
        normalized_shape: the sizes of the last dimensions; an int for one.
        eps: None: 2^-23, or 2^-52 for float64.
        elementwise_affine: whether there is a weight, of ones at first.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dtype = floating_dtype("RMSNorm", device, dtype)
        self.normalized_shape = _shape("RMSNorm", normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        parameter = empty_parameter(self.normalized_shape, dtype) if elementwise_affine else None
        self.register_parameter("weight", parameter)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets weight to 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
