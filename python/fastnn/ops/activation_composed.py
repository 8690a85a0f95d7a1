"""Activations that are made of other operations: prelu, glu, tanhshrink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _C
from . import shape
from .activation import sigmoid, tanh
from .arithmetic import _mul, _sub

if TYPE_CHECKING:
    import numpy as np

    from ..tensor import Tensor


def _slopes(x, weight):
    """weight, shaped to broadcast along x's axis 1."""
    if x.dtype != weight.dtype:
        raise TypeError(f"prelu: input has dtype {x.dtype} but weight has {weight.dtype}; expected one dtype")
    if weight.ndim > 1:
        raise ValueError(f"prelu: weight has shape {weight.shape}; expected one dimension, or none")
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.numel() not in (1, channels):
        raise ValueError(
            f"prelu: weight has {weight.numel()} slopes but input of shape {x.shape} has {channels} channels; expected "
            f"1 or {channels}"
        )
    return _C.reshape(weight, (1, -1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else (1,) * x.ndim)


def _prelu_forward(x, weight):
    return _C.where(_C.gt(x, 0), x, _C.mul(x, _slopes(x, weight)))


def _prelu_backward(ctx, grad):
    x, weight = ctx.saved
    slopes = _slopes(x, weight)
    positive = _C.gt(x, 0)
    dx = dw = None
    if ctx.needs_input_grad[0]:
        dx = _C.where(positive, grad, _C.mul(grad, slopes))
    if ctx.needs_input_grad[1]:
        dw = _C.reshape(_C.sum_to(_C.where(positive, 0, _C.mul(grad, x)), slopes.shape), weight.shape)
    return dx, dw


_prelu = _C.Op("prelu", _prelu_forward, lambda x, weight: (_prelu_forward(x, weight), (x, weight)), _prelu_backward)


def prelu(input: Tensor | np.ndarray, weight: Tensor | np.ndarray) -> Tensor:
    """y = x if x > 0 else weight x. He et al. 2015, arXiv:1502.01852.

    Args:
        input: (N, C, ...). weight: (C,) slopes, or one.

    Raises:
        ValueError: the number of slopes is neither 1 nor C. TypeError: the dtypes differ.
    """
    return _prelu(input, weight)


def glu(input: Tensor | np.ndarray, dim: int = -1) -> Tensor:
    """y = a sigmoid(b) with a and b the halves of input along dim. Dauphin et al. 2016, arXiv:1612.08083.

    Raises:
        ValueError: the size of dim is odd. IndexError: there is no such dim.
    """
    if not input.ndim:
        raise ValueError("glu: input has no dimension; expected one to halve")
    axis = shape._axis("glu", dim, input.ndim)
    half, odd = divmod(input.shape[axis], 2)
    if odd:
        raise ValueError(f"glu: dimension {axis} of input has size {input.shape[axis]}; expected an even size")
    before = (slice(None),) * axis
    a = shape._get_item(input, (*before, slice(0, half)))
    b = shape._get_item(input, (*before, slice(half, 2 * half)))
    return _mul(a, sigmoid(b))


def tanhshrink(input: Tensor | np.ndarray) -> Tensor:
    """y = x - tanh(x)"""
    return _sub(input, tanh(input))
