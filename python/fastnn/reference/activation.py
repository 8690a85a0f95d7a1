"""Activations, softmax and dropout. All but softmax are elementwise: input (...) -> (...)."""

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._common import as_float64, quiet

_erfc = np.frompyfunc(math.erfc, 1, 1)


@quiet
def relu(input: ArrayLike, inplace: bool = False) -> np.ndarray:
    """y = max(x, 0)"""
    return np.maximum(as_float64(input), 0.0)


@quiet
def relu6(input: ArrayLike, inplace: bool = False) -> np.ndarray:
    """y = min(max(x, 0), 6)"""
    return np.clip(as_float64(input), 0.0, 6.0)


@quiet
def hardtanh(input: ArrayLike, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> np.ndarray:
    """y = min(max(x, min_val), max_val)"""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val is {min_val} and max_val {max_val}; expected min_val <= max_val")
    return np.clip(as_float64(input), min_val, max_val)


@quiet
def leaky_relu(input: ArrayLike, negative_slope: float = 0.01, inplace: bool = False) -> np.ndarray:
    """y = x if x > 0 else negative_slope x"""
    x = as_float64(input)
    return np.where(x > 0, x, negative_slope * x)


@quiet
def elu(input: ArrayLike, alpha: float = 1.0, inplace: bool = False) -> np.ndarray:
    """y = x if x > 0 else alpha (exp(x) - 1)"""
    x = as_float64(input)
    return np.where(x > 0, x, alpha * np.expm1(x))


@quiet
def gelu(input: ArrayLike, approximate: str = "none") -> np.ndarray:
    """y = x Phi(x), Phi the normal distribution function; or with approximate="tanh",
    y = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """
    x = as_float64(input)
    # Both forms are written without the 1 + ..., which cancels for negative x.
    if approximate == "none":
        return 0.5 * x * np.asarray(_erfc(-x / math.sqrt(2.0)), dtype=np.float64)
    if approximate == "tanh":
        return x * sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))
    raise ValueError(f'gelu: approximate is {approximate!r}; expected "none" or "tanh"')


@quiet
def sigmoid(input: ArrayLike) -> np.ndarray:
    """y = 1 / (1 + exp(-x))"""
    x = as_float64(input)
    small = np.exp(-np.abs(x))  # never overflows
    return np.where(x < 0, small, 1.0) / (1.0 + small)


@quiet
def tanh(input: ArrayLike) -> np.ndarray:
    """y = tanh(x)"""
    return np.tanh(as_float64(input))


@quiet
def silu(input: ArrayLike, inplace: bool = False) -> np.ndarray:
    """y = x sigmoid(x)"""
    x = as_float64(input)
    return x * sigmoid(x)


@quiet
def mish(input: ArrayLike, inplace: bool = False) -> np.ndarray:
    """y = x tanh(log(1 + exp(x))). Misra 2019, arXiv:1908.08681."""
    x = as_float64(input)
    return x * np.tanh(np.logaddexp(0.0, x))


@quiet
def hardsigmoid(input: ArrayLike, inplace: bool = False) -> np.ndarray:
    """y = min(max(x + 3, 0), 6) / 6"""
    return relu6(as_float64(input) + 3.0) / 6.0


@quiet
def hardswish(input: ArrayLike, inplace: bool = False) -> np.ndarray:
    """y = x min(max(x + 3, 0), 6) / 6. Howard et al. 2019, arXiv:1905.02244."""
    x = as_float64(input)
    return x * relu6(x + 3.0) / 6.0


@quiet
def softplus(input: ArrayLike, beta: float = 1.0, threshold: float = 20.0) -> np.ndarray:
    """y = x if beta x > threshold else log(1 + exp(beta x)) / beta"""
    x = as_float64(input)
    return np.where(beta * x > threshold, x, np.logaddexp(0.0, beta * x) / beta)


@quiet
def softsign(input: ArrayLike) -> np.ndarray:
    """y = x / (1 + |x|)"""
    x = as_float64(input)
    return x / (1.0 + np.abs(x))


@quiet
def selu(input: ArrayLike, inplace: bool = False) -> np.ndarray:
    """y = s x if x > 0 else s a (exp(x) - 1)"""
    x = as_float64(input)
    return 1.0507009873554804934193349852946 * np.where(x > 0, x, 1.6732632423543772848170429916717 * np.expm1(x))


@quiet
def celu(input: ArrayLike, alpha: float = 1.0, inplace: bool = False) -> np.ndarray:
    """y = x if x > 0 else alpha (exp(x / alpha) - 1)"""
    x = as_float64(input)
    return np.where(x > 0, x, alpha * np.expm1(x / alpha))


@quiet
def logsigmoid(input: ArrayLike) -> np.ndarray:
    """y = log(1 / (1 + exp(-x)))"""
    return -np.logaddexp(0.0, -as_float64(input))


@quiet
def hardshrink(input: ArrayLike, lambd: float = 0.5) -> np.ndarray:
    """y = 0 if -lambd <= x <= lambd else x"""
    x = as_float64(input)
    return np.where((x >= -lambd) & (x <= lambd), 0.0, x)


@quiet
def softshrink(input: ArrayLike, lambd: float = 0.5) -> np.ndarray:
    """y = x - lambd if x > lambd, x + lambd if x < -lambd, else 0"""
    x = as_float64(input)
    return np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, np.where(np.isnan(x), x, 0.0)))


@quiet
def tanhshrink(input: ArrayLike) -> np.ndarray:
    """y = x - tanh(x)"""
    x = as_float64(input)
    return x - np.tanh(x)


@quiet
def threshold(input: ArrayLike, threshold: float, value: float, inplace: bool = False) -> np.ndarray:
    """y = x if x > threshold else value"""
    x = as_float64(input)
    return np.where(x <= threshold, value, x)


@quiet
def prelu(input: ArrayLike, weight: ArrayLike) -> np.ndarray:
    """y = x if x > 0 else weight x, with weight along axis 1"""
    x, w = as_float64(input), as_float64(weight)
    if x.ndim > 1:
        w = w.reshape(-1, *(1,) * (x.ndim - 2))
    return np.where(x > 0, x, w.reshape(w.shape if x.ndim > 1 else ()) * x)


@quiet
def glu(input: ArrayLike, dim: int = -1) -> np.ndarray:
    """y = a sigmoid(b) with a and b the halves of input along dim"""
    a, b = np.split(as_float64(input), 2, axis=dim)
    return a * sigmoid(b)


@quiet
def softmax(
    input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None
) -> np.ndarray:
    """y_i = exp(x_i) / sum_j exp(x_j) along `dim`; dim None is 0 for 0, 1 and 3 dimensions, else 1 (torch's old rule).

    `dtype`: the input is rounded to it first. A row with +inf, or of -inf only, gives NaN.
    """
    x, shape, dim = _softmax_input(input, dim, dtype)
    shifted = np.exp(x - x.max(axis=dim, keepdims=True, initial=-np.inf))
    return (shifted / shifted.sum(axis=dim, keepdims=True)).reshape(shape)


@quiet
def log_softmax(
    input: ArrayLike, dim: int | None = None, _stacklevel: int = 3, dtype: DTypeLike | None = None
) -> np.ndarray:
    """y_i = x_i - log sum_j exp(x_j) along `dim`. Arguments as softmax."""
    x, shape, dim = _softmax_input(input, dim, dtype)
    shifted = x - x.max(axis=dim, keepdims=True, initial=-np.inf)
    return (shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))).reshape(shape)


def _softmax_input(
    input: ArrayLike, dim: int | None, dtype: DTypeLike | None
) -> tuple[np.ndarray, tuple[int, ...], int]:
    x = as_float64(input if dtype is None else np.asarray(input).astype(dtype))
    if dim is None:
        dim = 0 if x.ndim in (0, 1, 3) else 1
    return np.atleast_1d(x), x.shape, dim


@quiet
def dropout(
    input: ArrayLike, p: float = 0.5, training: bool = True, inplace: bool = False, *, mask: ArrayLike | None = None
) -> np.ndarray:
    """y = x mask / (1 - p) in training, x otherwise. `mask` (true = kept, shape of input) stands for torch's generator.

    p = 1 gives 0 x. Srivastava et al. 2014, JMLR 15.
    """
    x = as_float64(input)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p is {p}; expected a probability between 0 and 1")
    if not training:
        return x.copy()
    if mask is None:
        raise ValueError("dropout: mask is None; expected the mask of kept elements in training")
    keep = np.asarray(mask).astype(bool)
    return x * (keep / (1.0 - p) if p < 1.0 else 0.0)
