"""Elementwise exp, expm1, log, log1p, sqrt, abs and neg, input (...) -> (...), with the names and limits of torch's.

float32, bfloat16, float16 (arithmetic in float32) and float64; NotImplementedError for other dtypes. Each function
takes a Tensor or a numpy array and returns the same type.
"""

from __future__ import annotations

from .activation import Array, elementwise_op

_exp = elementwise_op("exp", saved="y")
_expm1 = elementwise_op("expm1", saved="y")
_sqrt = elementwise_op("sqrt", saved="y")
_log = elementwise_op("log", saved="x")
_log1p = elementwise_op("log1p", saved="x")
_abs = elementwise_op("abs", saved="x")
_neg = elementwise_op("neg", saved="x")


def exp(input: Array) -> Array:
    """y = e^x"""
    return _exp(input, 0.0, 0.0)


def expm1(input: Array) -> Array:
    """y = e^x - 1, without the cancellation near 0."""
    return _expm1(input, 0.0, 0.0)


def log(input: Array) -> Array:
    """y = ln x; -inf at 0, NaN below."""
    return _log(input, 0.0, 0.0)


def log1p(input: Array) -> Array:
    """y = ln(1 + x), without the cancellation near 0; -inf at -1, NaN below."""
    return _log1p(input, 0.0, 0.0)


def sqrt(input: Array) -> Array:
    """y = x^(1/2); NaN below 0. The derivative at 0 is infinite."""
    return _sqrt(input, 0.0, 0.0)


def abs(input: Array) -> Array:
    """y = |x|. The derivative at 0 is 0."""
    return _abs(input, 0.0, 0.0)


def neg(input: Array) -> Array:
    """y = -x"""
    return _neg(input, 0.0, 0.0)
