"""Reductions over dimensions. Each result is summed in one fixed order: the same bits for any number of threads."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import _C

if TYPE_CHECKING:
    from ..tensor import Tensor

    Dim = int | Sequence[int] | None


class Extremum(NamedTuple):
    """What max(dim) and min(dim) return."""

    values: Tensor
    indices: Tensor


def _dims(op: str, dim: Dim) -> tuple[int, ...]:
    if dim is None:
        return ()
    if isinstance(dim, (tuple, list)):
        return tuple(dim)
    try:
        return (operator.index(dim),)
    except TypeError:
        raise TypeError(f"{op}: dim is a {type(dim).__name__}; expected an int, a tuple of int or None") from None


def _with_reduced(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a reduction of `shape` with keepdim=True."""
    if not dims or not shape:
        return (1,) * len(shape)
    reduced = {d % len(shape) for d in dims}
    return tuple(1 if i in reduced else size for i, size in enumerate(shape))


def _expand_back(grad, shape, dims):
    return _C.expand(_C.reshape(grad, _with_reduced(shape, dims)), shape)


def _mean_backward(ctx, grad):
    shape, dims = ctx.saved
    count = math.prod(shape) / (grad.numel() or 1)
    return _expand_back(_C.div(grad, count), shape, dims)


def _record_extremum(forward):
    def record(x, dims, keepdim):
        out = forward(x, dims, keepdim)
        return out, (x, out, dims)

    return record


def _extremum_backward(ctx, grad):  # equal extrema share the gradient
    x, out, dims = ctx.saved
    kept = _with_reduced(x.shape, dims)
    out = _C.reshape(out, kept)
    with_nan = out.is_cuda or np.isnan(out.numpy()).any()  # on a GPU the look would wait for it
    equal = _C.bitwise_or(_C.eq(x, out), _C.ne(x, x)) if with_nan else _C.eq(x, out)
    equal = _C.astype(equal, x.dtype)
    return _C.mul(_C.div(equal, _C.sum_to(equal, kept)), _C.reshape(grad, kept))


def _along_backward(ctx, grad):
    index, shape, dim, keepdim = ctx.saved
    dim = dim % (len(shape) or 1)
    grad = grad[0]
    if grad is None:
        return None
    out = _C.full(shape, 0, grad.dtype, grad.device)
    if not shape:
        _C.assign(out, grad)
        return out
    if out.is_cuda:
        kept = shape[:dim] + (1,) + shape[dim + 1 :]
        places = np.arange(shape[dim]).reshape((-1,) + (1,) * (len(shape) - dim - 1))
        there = _C.eq(_C.reshape(index, kept), _C.to_device(_C.from_numpy(places), out.device))
        return _C.where(there, _C.reshape(grad, kept), 0)
    at, values = index.numpy(), grad.numpy()
    if not keepdim:
        at, values = np.expand_dims(at, dim), np.expand_dims(values, dim)
    np.put_along_axis(out.numpy(), at, values, dim)
    return out


def _along(name, forward):
    def record(x, dim, keepdim):
        out = forward(x, dim, keepdim)
        return out, (out[1], x.shape, dim, keepdim)

    return _C.Op(name, forward, record, _along_backward)


_sum = _C.Op(
    "sum",
    _C.sum,
    lambda x, dims, keepdim: (_C.sum(x, dims, keepdim), (x.shape, dims)),
    lambda ctx, grad: _expand_back(grad, *ctx.saved),
)
_mean = _C.Op("mean", _C.mean, lambda x, dims, keepdim: (_C.mean(x, dims, keepdim), (x.shape, dims)), _mean_backward)
_amax = _C.Op("amax", _C.amax, _record_extremum(_C.amax), _extremum_backward)
_amin = _C.Op("amin", _C.amin, _record_extremum(_C.amin), _extremum_backward)
_max_along = _along("max", _C.max_along)
_min_along = _along("min", _C.min_along)
_argmax = _C.Op("argmax", lambda x, dim, keepdim: _C.max_along(x, dim, keepdim)[1])
_argmin = _C.Op("argmin", lambda x, dim, keepdim: _C.min_along(x, dim, keepdim)[1])


def sum(input: Tensor | np.ndarray, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Sum over dim (all dimensions if None). bool and integers give int64; floats keep their dtype.

    float32 and narrower are added in float32 within blocks of 1024 and in float64 across blocks, so the error is about
    one rounding of the result; float32 tensors of at most 1024 elements in float64 throughout.

    Raises:
        IndexError: dim is out of range.
        ValueError: dim names a dimension twice.
    """
    return _sum(input, _dims("sum", dim), keepdim)


def mean(input: Tensor | np.ndarray, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Sum over dim divided by the number of elements; NaN where that is 0. Floating dtypes. See sum."""
    return _mean(input, _dims("mean", dim), keepdim)


def amax(input: Tensor | np.ndarray, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Largest element over dim (all if None); NaN wins. Equal elements share the gradient.

    Raises:
        ValueError: there is no element to compare.
    """
    return _amax(input, _dims("amax", dim), keepdim)


def amin(input: Tensor | np.ndarray, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Smallest element over dim (all if None); NaN wins. Equal elements share the gradient. See amax."""
    return _amin(input, _dims("amin", dim), keepdim)


def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Tensor | Extremum:
    """Without dim the largest element; with dim the named tuple (values, indices) along it, indices of the first of
    equals; with a tensor in dim's place the elementwise maximum. NaN wins."""
    return _extremum("max", _amax, _max_along, input, dim, keepdim)


def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Tensor | Extremum:
    """Smallest element(s); see max."""
    return _extremum("min", _amin, _min_along, input, dim, keepdim)


def _extremum(name, overall, along, input, dim, keepdim):
    if isinstance(input, (int, float)):
        raise TypeError(f"{name}: input is {input!r}; expected a Tensor or a numpy array")
    if dim is None:
        return overall(input, (), keepdim)
    if hasattr(dim, "__dlpack__"):  # a tensor or an array
        from .arithmetic import maximum, minimum

        return (maximum if name == "max" else minimum)(input, dim)
    return Extremum(*along(input, _dims(name, dim)[0], keepdim))


def argmax(input: Tensor | np.ndarray, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index (int64) of the largest element along dim, of the flattened input if None; the first of equals; NaN wins."""
    return _arg(_argmax, input, dim, keepdim)


def argmin(input: Tensor | np.ndarray, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index (int64) of the smallest element along dim, of the flattened input if None. See argmax."""
    return _arg(_argmin, input, dim, keepdim)


def _arg(op, input, dim, keepdim):
    if dim is not None:
        return op(input, _dims(op.name, dim)[0], keepdim)
    out = op(input.reshape(-1), 0, False)
    return out.reshape((1,) * input.ndim) if keepdim else out
