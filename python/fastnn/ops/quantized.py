"""Products of 8-bit integers with exact sums: int_mm and linear_int8."""

from __future__ import annotations

import numpy as np

from .. import _C
from .._arrays import as_tensor
from ._epilogue import check_epilogue


def _like(input, result):
    return result.numpy() if isinstance(input, np.ndarray) else result


def int_mm(input, other):
    """Matrix product of integers, exact: c[..., i, j] = sum_k input[..., i, k] * other[k, j] in int32.

    Args:
        input: (..., k), int8 or uint8. other: (k, n), int8. Any strides.

    Returns: (..., n), int32; sums beyond 32 bits wrap around (k above 66,000). torch's private torch._int_mm.

    Raises: TypeError for other dtypes, ValueError for shapes that do not fit.
    """
    return _like(input, _C.int_mm(as_tensor(input, "int_mm: input"), as_tensor(other, "int_mm: other")))


def linear_int8(
    input,
    weight,
    input_scale,
    weight_scale,
    bias=None,
    *,
    input_zero_point=0,
    activation=None,
    output_scale=None,
    output_zero_point=0,
):
    """linear on values that stand for scale * (integer - zero_point); the integer sums are exact.

    y[..., n] = f(input_scale * weight_scale[n] * sum_k (input[..., k] - input_zero_point) * weight[n, k] + bias[n])

    Args:
        input: (..., in_features), int8 or uint8. weight: (out_features, in_features), int8, zero point 0.
        input_scale: a number. weight_scale: float32 (out_features,), one per output channel, or one for all.
        bias: float32 (out_features,) or None. activation: None or a name, as in linear.
        output_scale: None, or a number: the result is then round(y / output_scale) + output_zero_point, half to even
            and clamped, in the dtype of the input.

    Returns: (..., out_features) in float32, or with output_scale in the dtype of the input.

    Raises: TypeError for other dtypes; ValueError for shapes that do not fit, scales that are not finite and zero
    points outside of the dtype. Not differentiable. Affine quantization as in Jacob et al. 2018, arXiv:1712.05877.
    """
    if output_scale is not None and not output_scale > 0:
        raise ValueError(f"linear_int8: output_scale is {output_scale}; expected None or a positive number")
    y = _C.linear_int8(
        as_tensor(input, "linear_int8: input"),
        as_tensor(weight, "linear_int8: weight"),
        float(input_scale),
        input_zero_point,
        as_tensor(np.float32(weight_scale) if np.isscalar(weight_scale) else weight_scale, "linear_int8: weight_scale"),
        None if bias is None else as_tensor(bias, "linear_int8: bias"),
        check_epilogue("linear_int8", activation),
        0.0 if output_scale is None else float(output_scale),
        output_zero_point,
    )
    return _like(input, y)
