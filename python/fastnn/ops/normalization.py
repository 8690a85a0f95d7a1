"""Normalization: layer_norm, rms_norm, batch_norm, group_norm, instance_norm; normalize, local_response_norm.

In the first five y = (x - mean) / sqrt(var + eps) weight + bias, where var = mean((x - mean)^2) is the biased variance;
they differ in the elements that share a mean. x is float32, bfloat16, float16 or float64 and y has its dtype. weight,
bias and running statistics have it too, or float32 beside bfloat16 and float16; weight None stands for 1, bias None
for 0.

Sums are in float32 over blocks of the data and in float64 beyond (float64 throughout for float64). The variance is
taken about the mean in a second pass over each block, and blocks are merged as in Chan, Golub and LeVeque 1983,
"Algorithms for computing the sample variance". The mean is kept in more precision than x. So a mean that is large
against the deviation costs no accuracy.

All raise ValueError for shapes and values that do not fit and NotImplementedError for other dtypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _C
from ..tensor import Tensor
from ._arguments import integer
from .arithmetic import _add, _div, _mul, _pow
from .pooling import avg_pool2d
from .shape import _reshape

# What is saved beside the arguments are the statistics, mean and 1 / sqrt(var + eps), as float64 tensors of one
# dimension: one number for each row of layer_norm and rms_norm, channel of batch_norm, or group of an image of
# group_norm; none where the input is empty.


def _parameter_dtype(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> np.dtype:
    """The dtype of the gradients of weight and bias."""
    return (input if weight is None and bias is None else bias if weight is None else weight).dtype


def _check_parameters(op: str, weight: Any, bias: Any) -> None:
    if weight is not None and bias is not None and weight.dtype != bias.dtype:
        raise NotImplementedError(f"{op}: weight has dtype {weight.dtype} and bias {bias.dtype}; expected one dtype")


def _shape(op: str, normalized_shape: Sequence[int]) -> tuple[int, ...]:
    if type(normalized_shape) is tuple:
        return normalized_shape
    if not isinstance(normalized_shape, (tuple, list)):
        raise TypeError(f"{op}: normalized_shape is {normalized_shape!r}; expected a tuple of ints")
    return tuple(normalized_shape)


# ---- over the last dimensions ----------------------------------------------------------------------------------------


def _record_layer_norm(input, shape, weight, bias, eps):
    y, mean, rstd = _C.layer_norm_statistics(input, shape, weight, bias, eps)
    return y, (input, shape, weight, mean, rstd, _parameter_dtype(input, weight, bias))


def _layer_norm_backward(ctx, grad):
    need_input, _, need_weight, need_bias, _ = ctx.needs_input_grad
    dx, dw, db = _C.layer_norm_backward(grad, *ctx.saved, need_input, need_weight, need_bias)
    return dx, None, dw, db


_layer_norm = _C.Op("layer_norm", _C.layer_norm, _record_layer_norm, _layer_norm_backward)


def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    """The elements of the last dimensions share a mean. Ba et al. 2016, arXiv:1607.06450.

    Args:
        input: (..., *normalized_shape).
        normalized_shape: the sizes of these dimensions, at least one.
        weight, bias: (*normalized_shape,) or None.
        eps: a number; NaN comes out where var + eps is negative.
    """
    if weight is not None and bias is not None:
        _check_parameters("layer_norm", weight, bias)
    return _layer_norm(input, _shape("layer_norm", normalized_shape), weight, bias, eps)


def _record_rms_norm(input, shape, weight, eps):
    y, rstd = _C.rms_norm_statistics(input, shape, weight, eps)
    return y, (input, shape, weight, rstd)


def _rms_norm_backward(ctx, grad):
    need_input, _, need_weight, _ = ctx.needs_input_grad
    dx, dw = _C.rms_norm_backward(grad, *ctx.saved, need_input, need_weight)
    return dx, None, dw


_rms_norm = _C.Op("rms_norm", _C.rms_norm, _record_rms_norm, _rms_norm_backward)


def rms_norm(input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) weight over the last dimensions. Zhang & Sennrich 2019, arXiv:1910.07467.

    Args:
        input: (..., *normalized_shape).
        normalized_shape: the sizes of these dimensions, at least one.
        weight: (*normalized_shape,) or None.
        eps: a number. None: 2^-23, or 2^-52 for float64.
    """
    if eps is None:
        eps = 2.0**-52 if input.dtype.itemsize == 8 else 2.0**-23
    return _rms_norm(input, _shape("rms_norm", normalized_shape), weight, eps)


# ---- of channels -----------------------------------------------------------------------------------------------------


def _record_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps):
    y, mean, rstd = _C.batch_norm_statistics(input, weight, bias, running_mean, running_var, training, momentum, eps)
    return y, (input, weight, mean, rstd, training, _parameter_dtype(input, weight, bias))


_batch_norm = _C.Op(
    "batch_norm",
    forward=_C.batch_norm,
    record=_record_batch_norm,
    backward=lambda ctx, grad: _C.batch_norm_backward(grad, *ctx.saved, *ctx.needs_input_grad[:3]),
)


def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """The elements of a channel share a mean, over all images. Ioffe & Szegedy 2015, arXiv:1502.03167.

    In training mean and var are those of the input, and the running statistics, if given, are updated in place:
    r <- (1 - momentum) r + momentum s, where s is the mean, or the unbiased variance. Else mean and var are the running
    statistics.

    Args:
        input: (N, C, ...). The output keeps its layout, channels_last too.
        running_mean, running_var: (C,), both or neither; needed with training=False.
        weight, bias: (C,) or None.
        eps: a number; NaN comes out where var + eps is negative.

    Raises:
        ValueError: also for a single value per channel in training, and for running statistics that are read-only.
    """
    if weight is not None and bias is not None:
        _check_parameters("batch_norm", weight, bias)
    if input.ndim == 1 and input.shape[0] == 0:  # torch takes it for no images of no channels
        empty = _reshape(input, (0, 0))
        return _reshape(batch_norm(empty, running_mean, running_var, weight, bias, training, momentum, eps), (0,))
    return _batch_norm(input, weight, bias, running_mean, running_var, bool(training), momentum, eps)


def _record_group_norm(input, groups, weight, bias, eps):
    y, mean, rstd = _C.group_norm_statistics(input, groups, weight, bias, eps)
    return y, (input, groups, weight, mean, rstd, _parameter_dtype(input, weight, bias))


def _group_norm_backward(ctx, grad):
    need_input, _, need_weight, need_bias, _ = ctx.needs_input_grad
    dx, dw, db = _C.group_norm_backward(grad, *ctx.saved, need_input, need_weight, need_bias)
    return dx, None, dw, db


_group_norm = _C.Op("group_norm", _C.group_norm, _record_group_norm, _group_norm_backward)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """The elements of a group of C / num_groups channels of one image share a mean. Wu & He 2018, arXiv:1803.08494.

    Args:
        input: (N, C, ...). The output keeps its layout, channels_last too.
        num_groups: a divisor of C.
        weight, bias: (C,) or None.
        eps: a number; NaN comes out where var + eps is negative.

    Raises:
        ValueError: also where all groups together hold a single value, as torch does.
    """
    if weight is not None and bias is not None:
        _check_parameters("group_norm", weight, bias)
    return _group_norm(input, num_groups, weight, bias, eps)


def _record_instance_norm(input, weight, bias, running_mean, running_var, momentum, eps):
    y, mean, rstd = _C.instance_norm_statistics(input, weight, bias, running_mean, running_var, momentum, eps)
    return y, (input, max(1, input.shape[1]), weight, mean, rstd, _parameter_dtype(input, weight, bias))


_instance_norm = _C.Op(
    "instance_norm",
    forward=_C.instance_norm,
    record=_record_instance_norm,
    backward=lambda ctx, grad: _C.group_norm_backward(grad, *ctx.saved, *ctx.needs_input_grad[:3]),
)


def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """The elements of a channel of one image share a mean. Ulyanov et al. 2016, arXiv:1607.08022.

    With use_input_stats the running statistics, if given, are updated in place as by batch_norm, with the average of
    the images' statistics. Else mean and var are the running statistics, and this is batch_norm.

    Args:
        input: (N, C, ...) with at least two elements per channel. The output keeps its layout, channels_last too.
        running_mean, running_var: (C,), both or neither; needed with use_input_stats=False.
        weight, bias: (C,) or None.
        eps: a number; NaN comes out where var + eps is negative.
    """
    if weight is not None and bias is not None:
        _check_parameters("instance_norm", weight, bias)
    if not use_input_stats:
        return _batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)
    return _instance_norm(input, weight, bias, running_mean, running_var, momentum, eps)


# ---- by a norm, and across channels ----------------------------------------------------------------------------------


def _compute_dtype(x: Tensor) -> str:
    return "float64" if x.dtype == np.float64 else "float32"


def _absolute(x):
    return _C.activation("abs", x, 0.0, 0.0)


def _norm(x, p, dims):
    if p == 2:
        return _C.activation("sqrt", _C.sum(_C.mul(x, x), dims, True), 0.0, 0.0)
    if np.isinf(p):
        return (_C.amax if p > 0 else _C.amin)(_absolute(x), dims, True)
    if p == 0:
        return _C.sum(_C.astype(_C.ne(x, 0), x.dtype), dims, True)
    if p == 1:
        return _C.sum(_absolute(x), dims, True)
    return _C.pow(_C.sum(_C.pow(_absolute(x), p), dims, True), 1 / p)


def _record_normalize(x, p, dims, eps):
    if x.dtype.kind not in "fV":
        raise NotImplementedError(f"normalize: input has dtype {x.dtype}; expected a floating dtype")
    wide = _C.astype(x, np.dtype(_compute_dtype(x)))
    norm = _norm(wide, p, dims)
    return _C.astype(_C.div(wide, _C.maximum(norm, eps)), x.dtype), (x, norm, p, dims, eps)


def _normalize_backward(ctx, grad):
    """dx = g / d - sum(g x) / d^2 dnorm/dx with d = max(norm, eps); the last factor is 0 where eps is larger."""
    input, norm, p, dims, eps = ctx.saved
    x, g = (_C.astype(a, np.dtype(_compute_dtype(input))) for a in (input, grad))
    d = _C.maximum(norm, eps)
    if p == 0:
        return _C.astype(_C.div(g, d), input.dtype)
    if p == 2:
        slope = _C.div(x, norm)
    else:
        slope = _C.sub(_C.astype(_C.gt(x, 0), x.dtype), _C.astype(_C.lt(x, 0), x.dtype))
        if np.isinf(p):  # equal extrema share the gradient
            first = _C.astype(_C.eq(_absolute(x), norm), x.dtype)
            slope = _C.mul(slope, _C.div(first, _C.sum(first, dims, True)))
        elif p != 1:
            slope = _C.mul(slope, _C.pow(_C.div(_absolute(x), norm), p - 1))
    along = _C.div(_C.div(_C.sum(_C.mul(g, x), dims, True), d), d)
    rest = _C.where(_C.ge(norm, eps), _C.mul(along, slope), 0)
    return _C.astype(_C.sub(_C.div(g, d), rest), input.dtype)


_normalize = _C.Op(
    "normalize",
    forward=lambda *arguments: _record_normalize(*arguments)[0],
    record=_record_normalize,
    backward=_normalize_backward,
)


def normalize(input: Any, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """y = x / max(||x||_p, eps) along `dim`, computed in float32 (float64 for float64)

    Args:
        input: any shape that has the dimension.
        p: the exponent of the norm; inf and -inf for the largest and smallest magnitude, 0 for the number of nonzeros.
        dim: one dimension, or several.
        eps: what a smaller norm is replaced by.
        out: must be None.
    """
    if out is not None:
        raise NotImplementedError("normalize: out is not supported; expected None")
    p = float(p)
    if p != p:
        raise ValueError("normalize: p is NaN; expected a number")
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (integer(dim, "normalize", "dim"),)
    return _normalize(input, p, dims, float(eps))


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """y[n, c] = x[n, c] / (k + alpha / size sum_{c'} x[n, c']^2)^beta over the `size` channels c' around c

    c' runs from c - floor(size / 2) to c + ceil(size / 2) - 1; there are no channels outside of x. Krizhevsky et al.
    2012, "ImageNet classification with deep convolutional neural networks". Composed of other functions.

    Args:
        input: (N, C, ...) with at least one dimension after C.
        size: at least 1.
    """
    shape = tuple(input.shape)
    size = integer(size, "local_response_norm", "size")
    if len(shape) < 3:
        raise ValueError(
            f"local_response_norm: input has shape {shape}; expected (N, C, ...) with three or more dimensions"
        )
    if size < 1:
        raise ValueError(f"local_response_norm: size is {size}; expected at least 1")
    if 0 in shape:
        return input
    columns = _reshape(_mul(input, input), (shape[0], 1, shape[1], -1))
    average = avg_pool2d(columns, (size, 1), 1, (size // 2, 0))[:, :, : shape[1]]
    return _div(input, _pow(_add(_mul(_reshape(average, shape), alpha), k), beta))
