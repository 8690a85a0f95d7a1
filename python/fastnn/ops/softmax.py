"""softmax and log_softmax along one dimension, input (...) -> (...), in float32, bfloat16, float16 and float64.

The maximum is subtracted first, so no finite input overflows. A distribution that contains NaN or +inf, or nothing but
-inf, comes out as NaN, as in torch. Sums are in float32 (float64 for float64), in an order
that depends on the shape only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from numpy.typing import DTypeLike

from .. import _C
from ._arguments import dtype_name

Array = TypeVar("Array")


def _op(name: str, forward: Callable, backward: Callable) -> _C.Op:
    def record(x, dim):
        y = forward(x, dim)
        return y, (y, dim)

    return _C.Op(name, forward, record, lambda ctx, grad: backward(ctx.saved[0], grad, ctx.saved[1]))


_softmax = _op("softmax", _C.softmax, _C.softmax_backward)
_log_softmax = _op("log_softmax", _C.log_softmax, _C.log_softmax_backward)

# dtype is a name: an Op takes tensors, numbers and strings.
_cast = _C.Op(
    "cast",
    forward=_C.astype,
    record=lambda x, dtype: (_C.astype(x, dtype), (x.dtype,)),
    backward=lambda ctx, grad: _C.astype(grad, ctx.saved[0]),
)


def _prepare(op: str, input: Array, dim: int | None, stacklevel: int, dtype: DTypeLike | None) -> tuple[Array, int]:
    if dim is None:
        warnings.warn(f"{op}: dim is not given; pass it, since the default depends on the rank", stacklevel=stacklevel)
        dim = 0 if input.ndim in (0, 1, 3) else 1
    if dtype is not None:
        input = _cast(input, dtype_name(dtype))
    return input, dim


def softmax(input: Array, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None) -> Array:
    """y_i = exp(x_i) / sum_j exp(x_j) along `dim`

    With `dtype` the input is converted to it first. dim None is torch's old rule, with its warning: 0 for 0, 1 and 3
    dimensions, else 1. IndexError for a `dim` that the input does not have.
    """
    if dim is None or dtype is not None:
        input, dim = _prepare("softmax", input, dim, _stacklevel, dtype)
    return _softmax(input, dim)


def log_softmax(input: Array, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None) -> Array:
    """y_i = x_i - log(sum_j exp(x_j)) along `dim`. Arguments as softmax."""
    if dim is None or dtype is not None:
        input, dim = _prepare("log_softmax", input, dim, _stacklevel, dtype)
    return _log_softmax(input, dim)
