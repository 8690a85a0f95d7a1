"""Elementwise activations, input (...) -> (...), in float32, bfloat16, float16 and float64.

Arithmetic is in float32 (float64 for float64). NaN and infinity go through as in torch, but large finite inputs never
give NaN (the gradient of torch's gelu with approximate="tanh" does at 1e20). Subnormal numbers count as zero, except in
relu, relu6, hardtanh, hardshrink, softshrink and threshold. Each function takes a Tensor or a numpy
array and returns the same type.

`inplace=True` writes the result into the memory of `input` and returns `input`. While the call is recorded for a
gradient it is computed out of place, as if inplace were False: the memory may be needed by the ops before. For torch
tensors that are recorded torch's rules for changes in place hold.
"""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import numpy as np

from .. import _C
from . import _foreign

Array = TypeVar("Array")


def elementwise_op(name: str, saved: str) -> _C.Op:
    """The Op of one functor of csrc/simd/activation.h; its derivative is written in `saved`: "x" or "y"."""
    forward = partial(_C.activation, name)  # half the cost of a lambda: relu takes 0.22 us

    def record(x, a, b):
        y = forward(x, a, b)
        return y, (x if saved == "x" else y, a, b)

    def backward(ctx, grad):
        tensor, a, b = ctx.saved
        return _C.activation_backward(name, tensor, grad, a, b)

    return _C.Op(name, forward, record, backward)


# What backward keeps: "y" where the derivative is a function of the output, which the next op keeps anyway.
_relu = elementwise_op("relu", saved="y")
_sigmoid = elementwise_op("sigmoid", saved="y")
_tanh = elementwise_op("tanh", saved="y")
_relu6 = elementwise_op("relu6", saved="x")
_leaky_relu = elementwise_op("leaky_relu", saved="x")
_elu = elementwise_op("elu", saved="x")
_gelu = elementwise_op("gelu", saved="x")
_gelu_tanh = elementwise_op("gelu_tanh", saved="x")
_silu = elementwise_op("silu", saved="x")
_mish = elementwise_op("mish", saved="x")
_hardswish = elementwise_op("hardswish", saved="x")
_hardsigmoid = elementwise_op("hardsigmoid", saved="x")
_hardtanh = elementwise_op("hardtanh", saved="x")
_softplus = elementwise_op("softplus", saved="x")
_softsign = elementwise_op("softsign", saved="x")
_selu = elementwise_op("selu", saved="x")
_celu = elementwise_op("celu", saved="x")
_logsigmoid = elementwise_op("logsigmoid", saved="x")
_hardshrink = elementwise_op("hardshrink", saved="x")
_softshrink = elementwise_op("softshrink", saved="x")
_threshold = elementwise_op("threshold", saved="x")


def _number(op: str, name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} is {value!r}; expected a number") from None


def _write_back(op: str, input: Array, output: Array) -> Array:
    if isinstance(input, np.ndarray):
        input[...] = output
        return input
    if not isinstance(input, _C.TensorBase):
        return _foreign.write_back(op, input, output)
    if output.requires_grad:
        return output
    _C.assign(input, output)
    return input


def _in_place(name: str, op: _C.Op, input: Array, a: float, b: float) -> Array:
    return _write_back(name, input, op(_foreign.before_change(input), a, b))


def relu(input: Array, inplace: bool = False) -> Array:
    """y = max(x, 0)

    The derivative at 0 is 0.
    """
    y = _relu(input, 0.0, 0.0)
    return _write_back("relu", input, y) if inplace else y


def relu6(input: Array, inplace: bool = False) -> Array:
    """y = min(max(x, 0), 6)

    The derivative at 0 and 6 is 0.
    """
    return _in_place("relu6", _relu6, input, 0.0, 0.0) if inplace else _relu6(input, 0.0, 0.0)


def hardtanh(input: Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Array:
    """y = min(max(x, min_val), max_val)

    The derivative at min_val and max_val is 0. ValueError unless min_val <= max_val.
    """
    low, high = _number("hardtanh", "min_val", min_val), _number("hardtanh", "max_val", max_val)
    if low > high:
        raise ValueError(f"hardtanh: min_val is {low} and max_val {high}; expected min_val <= max_val")
    return _in_place("hardtanh", _hardtanh, input, low, high) if inplace else _hardtanh(input, low, high)


def leaky_relu(input: Array, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    """y = x if x > 0 else negative_slope x. Maas et al. 2013."""
    slope = _number("leaky_relu", "negative_slope", negative_slope)
    return _in_place("leaky_relu", _leaky_relu, input, slope, 0.0) if inplace else _leaky_relu(input, slope, 0.0)


def elu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """y = x if x > 0 else alpha (exp(x) - 1). Clevert et al. 2015, arXiv:1511.07289.

    The derivative at 0 is alpha.
    """
    alpha = _number("elu", "alpha", alpha)
    return _in_place("elu", _elu, input, alpha, 0.0) if inplace else _elu(input, alpha, 0.0)


def gelu(input: Array, approximate: str = "none") -> Array:
    """y = x Phi(x), Phi the normal distribution function; or, with approximate="tanh",
    y = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). Hendrycks & Gimpel 2016, arXiv:1606.08415.

    Small results for negative x keep their relative accuracy. ValueError for any other `approximate`.
    """
    if approximate == "none":
        return _gelu(input, 0.0, 0.0)
    if approximate == "tanh":
        return _gelu_tanh(input, 0.0, 0.0)
    raise ValueError(f'gelu: approximate is {approximate!r}; expected "none" or "tanh"')


def silu(input: Array, inplace: bool = False) -> Array:
    """y = x sigmoid(x), also called swish. Elfwing et al. 2017, arXiv:1702.03118."""
    return _in_place("silu", _silu, input, 0.0, 0.0) if inplace else _silu(input, 0.0, 0.0)


def mish(input: Array, inplace: bool = False) -> Array:
    """y = x tanh(log(1 + exp(x))). Misra 2019, arXiv:1908.08681."""
    return _in_place("mish", _mish, input, 0.0, 0.0) if inplace else _mish(input, 0.0, 0.0)


def sigmoid(input: Array) -> Array:
    """y = 1 / (1 + exp(-x))"""
    return _sigmoid(input, 0.0, 0.0)


def tanh(input: Array) -> Array:
    """y = tanh(x)"""
    return _tanh(input, 0.0, 0.0)


def hardswish(input: Array, inplace: bool = False) -> Array:
    """y = x min(max(x + 3, 0), 6) / 6. Howard et al. 2019, arXiv:1905.02244.

    The derivative is 0 at -3 and 1 at 3.
    """
    return _in_place("hardswish", _hardswish, input, 0.0, 0.0) if inplace else _hardswish(input, 0.0, 0.0)


def hardsigmoid(input: Array, inplace: bool = False) -> Array:
    """y = min(max(x + 3, 0), 6) / 6

    The derivative at -3 and 3 is 0.
    """
    return _in_place("hardsigmoid", _hardsigmoid, input, 0.0, 0.0) if inplace else _hardsigmoid(input, 0.0, 0.0)


def softplus(input: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """y = x if beta x > threshold else log(1 + exp(beta x)) / beta"""
    return _softplus(input, _number("softplus", "beta", beta), _number("softplus", "threshold", threshold))


def softsign(input: Array) -> Array:
    """y = x / (1 + |x|)"""
    return _softsign(input, 0.0, 0.0)


def selu(input: Array, inplace: bool = False) -> Array:
    """y = s x if x > 0 else s a (exp(x) - 1), s = 1.0507009873554805, a = 1.6732632423543773: activations keep mean 0
    and variance 1. Klambauer et al. 2017, arXiv:1706.02515.

    The derivative at 0 is s a.
    """
    return _in_place("selu", _selu, input, 0.0, 0.0) if inplace else _selu(input, 0.0, 0.0)


def celu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """y = x if x > 0 else alpha (exp(x / alpha) - 1). Barron 2017, arXiv:1704.07483. ValueError for alpha 0."""
    alpha = _number("celu", "alpha", alpha)
    if alpha == 0:
        raise ValueError("celu: alpha is 0; expected another number")
    return _in_place("celu", _celu, input, alpha, 0.0) if inplace else _celu(input, alpha, 0.0)


def logsigmoid(input: Array) -> Array:
    """y = log(1 / (1 + exp(-x)))"""
    return _logsigmoid(input, 0.0, 0.0)


def hardshrink(input: Array, lambd: float = 0.5) -> Array:
    """y = 0 if -lambd <= x <= lambd else x"""
    return _hardshrink(input, _number("hardshrink", "lambd", lambd), 0.0)


def softshrink(input: Array, lambd: float = 0.5) -> Array:
    """y = x - lambd if x > lambd, x + lambd if x < -lambd, else 0. ValueError unless lambd >= 0."""
    lambd = _number("softshrink", "lambd", lambd)
    if not lambd >= 0:
        raise ValueError(f"softshrink: lambd is {lambd}; expected at least 0")
    return _softshrink(input, lambd, 0.0)


def threshold(input: Array, threshold: float, value: float, inplace: bool = False) -> Array:
    """y = x if x > threshold else value; NaN stays."""
    threshold, value = _number("threshold", "threshold", threshold), _number("threshold", "value", value)
    return (
        _in_place("threshold", _threshold, input, threshold, value) if inplace else _threshold(input, threshold, value)
    )
