"""Matrix products."""

import numpy as np
from numpy.typing import ArrayLike

from ._common import as_float64, quiet


@quiet
def linear(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> np.ndarray:
    """y[..., o] = sum_i x[..., i] w[o, i] + b[o]

    input (..., in), weight (out, in) or (in,), bias (out,) or scalar -> (..., out) or (...).
    """
    output = as_float64(input) @ as_float64(weight).T
    return output if bias is None else output + as_float64(bias)


@quiet
def matmul(input: ArrayLike, other: ArrayLike) -> np.ndarray:
    """y[..., i, j] = sum_k a[..., i, k] b[..., k, j]

    Leading dimensions broadcast. A 1-d operand is a row on the left, a column on the right; its dimension is dropped.
    """
    return np.matmul(as_float64(input), as_float64(other))
