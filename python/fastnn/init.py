"""Initial values of parameters, with the functions of torch.nn.init.

Each fills a Tensor in place, without recording it, and returns it. Values are drawn from `generator`, a
numpy.random.Generator, or by default from the library's own, which fastnn.manual_seed(n) sets.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from . import _C
from .random import generator as default_generator
from .tensor import Tensor

T = TypeVar("T", bound=Tensor)


def _fill(tensor: T, values: np.ndarray) -> T:
    _C.assign(tensor, _C.from_numpy(values))
    return tensor


def _draw_dtype(tensor: Tensor) -> type:
    return np.float64 if tensor.dtype == np.float64 else np.float32


def uniform_(tensor: T, a: float = 0.0, b: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """x ~ U(a, b)."""
    dtype = _draw_dtype(tensor)
    values = (generator or default_generator()).random(tensor.shape, dtype)
    return _fill(tensor, np.asarray(values * dtype(b - a) + dtype(a)))


def normal_(tensor: T, mean: float = 0.0, std: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """x ~ N(mean, std^2)."""
    dtype = _draw_dtype(tensor)
    values = (generator or default_generator()).standard_normal(tensor.shape, dtype)
    return _fill(tensor, np.asarray(values * dtype(std) + dtype(mean)))


def trunc_normal_(
    tensor: T,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: np.random.Generator | None = None,
) -> T:
    """x ~ N(mean, std^2) given a <= x <= b. Values outside are drawn again; ValueError where none can be inside."""
    low, high = (a - mean) / std, (b - mean) / std
    # P(low <= z <= high); erfc keeps the small tails.
    inside = 0.5 * abs(math.erfc(low / math.sqrt(2)) - math.erfc(high / math.sqrt(2)))
    if not (low < high and inside > 1e-3):
        raise ValueError(f"trunc_normal_: [{a}, {b}] holds {inside:.1g} of N({mean}, {std}^2); expected at least 1e-3")
    rng = generator or default_generator()
    values = rng.standard_normal(math.prod(tensor.shape))
    while (outside := np.flatnonzero((values < low) | (values > high))).size:
        values[outside] = rng.standard_normal(outside.size)
    return _fill(tensor, np.clip(values * std + mean, a, b).reshape(tensor.shape))


def constant_(tensor: T, val: float) -> T:
    """x = val."""
    return _fill(tensor, np.asarray(val, np.float64))


def ones_(tensor: T) -> T:
    """x = 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: T) -> T:
    """x = 0."""
    return constant_(tensor, 0.0)


def eye_(tensor: T) -> T:
    """The identity matrix; the tensor has two dimensions."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: tensor has shape {tensor.shape}; expected two dimensions")
    return _fill(tensor, np.eye(*tensor.shape))


def orthogonal_(tensor: T, gain: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """gain times a random matrix of shape (d0, d1 ... dn) with orthonormal rows or columns (the shorter ones).

    Saxe et al. 2014, arXiv:1312.6120.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: tensor has shape {tensor.shape}; expected two or more dimensions")
    rows = tensor.shape[0]
    columns = math.prod(tensor.shape[1:])
    if rows * columns == 0:
        return tensor
    values = (generator or default_generator()).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(values)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform
    return _fill(tensor, (gain * (q if rows >= columns else q.T)).reshape(tensor.shape))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Factor of the weights' deviation that makes up for a nonlinearity; `param` is the slope of leaky_relu."""
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"calculate_gain: param is {param!r}; expected the negative slope, a number")
        return math.sqrt(2.0 / (1 + slope**2))
    gains = dict.fromkeys(
        ("linear", "sigmoid", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        1.0,
    )
    gains |= {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}
    if nonlinearity not in gains:
        raise ValueError(
            f"calculate_gain: nonlinearity is {nonlinearity!r}; expected one of leaky_relu, {', '.join(gains)}"
        )
    return gains[nonlinearity]


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """(in, out) connections of a weight of shape (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out: tensor has shape {tensor.shape}; expected two or more dimensions")
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def xavier_uniform_(tensor: T, gain: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """x ~ U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)). Glorot & Bengio 2010, AISTATS."""
    bound = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: T, gain: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """x ~ N(0, s^2), s = gain sqrt(2 / (fan_in + fan_out)). Glorot & Bengio 2010, AISTATS."""
    return normal_(tensor, 0.0, _xavier_std(tensor, gain), generator)


def kaiming_uniform_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> T:
    """x ~ U(-b, b), b = gain sqrt(3 / fan), with the gain of the nonlinearity of slope a. He et al. 2015,
    arXiv:1502.01852."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> T:
    """x ~ N(0, s^2), s = gain / sqrt(fan), with the gain of the nonlinearity of slope a. He et al. 2015,
    arXiv:1502.01852."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def _xavier_std(tensor: Tensor, gain: float) -> float:
    return gain * math.sqrt(2.0 / max(sum(_calculate_fan_in_and_fan_out(tensor)), 1))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f'kaiming: mode is {mode!r}; expected "fan_in" or "fan_out"')
    fan = _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))
