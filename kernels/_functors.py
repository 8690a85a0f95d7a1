"""Elementwise functions and their derivatives on blocks in registers, for the activations and for epilogues.

Each follows csrc/simd/activation.h: NaN passes, large finite inputs give no NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Where the derivative is a function of the output, which the next op keeps anyway; the others need the input.
FROM_OUTPUT = ("relu", "sigmoid", "tanh")

ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish", "sigmoid", "tanh", "hardswish"),
    *("hardsigmoid", "hardtanh", "softplus", "softsign", "selu", "celu", "logsigmoid", "hardshrink", "softshrink"),
    "threshold",
)

# What conv2d, matmul and linear can apply to their result: those without parameters.
EPILOGUES = (
    *("relu", "relu6", "gelu", "gelu_tanh", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "softsign"),
)

SELU_ALPHA = tl.constexpr(1.6732632423543772)
SELU_SCALE = tl.constexpr(1.0507009873554805)


@triton.jit
def clamp(x, low, high):
    """min(max(x, low), high), and NaN where x is."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    # Near 0 the quotient below cancels: minimax polynomial in x^2 there (Moshier, Cephes tanhf).
    s = x * x
    p = -5.70498872745e-3 * s + 2.06390887954e-2
    p = p * s - 5.37397155531e-2
    p = p * s + 1.33314422036e-1
    p = p * s - 3.33332819422e-1
    near = p * s * x + x
    a = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.where(a > 15.0, 15.0, a)) + 1.0)
    return tl.where(a < 0.625, near, tl.where(x < 0.0, -far, tl.where(x != x, x, far)))


@triton.jit
def expm1(x):
    # Taylor series where exp(x) - 1 cancels.
    p = x * (1.0 / 5040.0) + 1.0 / 720.0
    p = p * x + 1.0 / 120.0
    p = p * x + 1.0 / 24.0
    p = p * x + 1.0 / 6.0
    p = p * x + 0.5
    return tl.where(tl.abs(x) < 0.35, p * x * x + x, tl.exp(x) - 1.0)


@triton.jit
def log1p(u):
    """log(1 + u) for u >= 0; the quotient corrects the rounding of 1 + u (Kahan)."""
    w = 1.0 + u
    return tl.where(w == 1.0, u, tl.log(w) * (u / tl.where(w == 1.0, 1.0, w - 1.0)))


@triton.jit
def softplus(x):
    return tl.where(x > 0.0, x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def normal_cdf(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_tanh_inner(x):
    """tanh of the approximation, whose argument would overflow for large x."""
    c = clamp(x, -10.0, 10.0)
    return tanh(0.7978845608028654 * (c + 0.044715 * c * c * c))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr, a, b):
    """f(x); a and b are the function's parameters, where it has any."""
    y = x
    if ACTIVATION == "relu":
        y = tl.where(x <= 0.0, 0.0, x)
    elif ACTIVATION == "relu6":
        y = clamp(x, 0.0, 6.0)
    elif ACTIVATION == "leaky_relu":
        y = tl.where(x > 0.0, x, a * x)
    elif ACTIVATION == "elu":
        y = tl.where(x > 0.0, x, a * expm1(x))
    elif ACTIVATION == "gelu":
        y = x * normal_cdf(x)
    elif ACTIVATION == "gelu_tanh":
        y = 0.5 * x * (1.0 + gelu_tanh_inner(x))
    elif ACTIVATION == "silu":
        y = x * sigmoid(x)
    elif ACTIVATION == "mish":
        # tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2)
        e = tl.exp(tl.where(x > 20.0, 20.0, x))
        y = x * (e * (e + 2.0) / (e * (e + 2.0) + 2.0))
    elif ACTIVATION == "sigmoid":
        y = sigmoid(x)
    elif ACTIVATION == "tanh":
        y = tanh(x)
    elif ACTIVATION == "hardswish":
        y = x * (clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0))
    elif ACTIVATION == "hardsigmoid":
        y = clamp(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)
    elif ACTIVATION == "hardtanh":
        y = clamp(x, a, b)
    elif ACTIVATION == "softplus":  # a: beta, b: threshold
        y = tl.where(x * a > b, x, softplus(x * a) / a)
    elif ACTIVATION == "softsign":
        y = x / (1.0 + tl.abs(x))
    elif ACTIVATION == "selu":
        y = SELU_SCALE * tl.where(x > 0.0, x, SELU_ALPHA * expm1(x))
    elif ACTIVATION == "celu":
        y = tl.where(x > 0.0, x, a * expm1(x / a))
    elif ACTIVATION == "logsigmoid":
        y = -softplus(-x)
    elif ACTIVATION == "hardshrink":
        y = tl.where((x >= -a) & (x <= a), 0.0, x)
    elif ACTIVATION == "softshrink":
        y = tl.where(x > a, x - a, tl.where(x < -a, x + a, x * 0.0))
    elif ACTIVATION == "threshold":
        y = tl.where(x <= a, b, x)
    else:
        tl.static_assert(ACTIVATION == "none", "unknown activation")
    return y


@triton.jit
def activation_gradient(s, ACTIVATION: tl.constexpr, a, b):
    """f'(x), from s: the output for FROM_OUTPUT, else x."""
    d = s * 0.0 + 1.0
    if ACTIVATION == "relu":
        d = tl.where(s > 0.0, 1.0, 0.0)
    elif ACTIVATION == "relu6":
        d = tl.where((s > 0.0) & (s < 6.0), 1.0, 0.0)
    elif ACTIVATION == "leaky_relu":
        d = tl.where(s > 0.0, 1.0, a)
    elif ACTIVATION == "elu":
        d = tl.where(s > 0.0, 1.0, a * tl.exp(s))
    elif ACTIVATION == "gelu":
        c = clamp(s, -15.0, 15.0)
        d = normal_cdf(s) + c * 0.3989422804014327 * tl.exp(-0.5 * c * c)
    elif ACTIVATION == "gelu_tanh":
        c = clamp(s, -10.0, 10.0)
        t = gelu_tanh_inner(s)
        d = 0.5 * (1.0 + t) + 0.5 * c * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * c * c)
    elif ACTIVATION == "silu":
        g = sigmoid(s)
        d = g * (1.0 + s * (1.0 - g))
    elif ACTIVATION == "mish":
        e = tl.exp(tl.where(s > 20.0, 20.0, s))
        t = e * (e + 2.0) / (e * (e + 2.0) + 2.0)
        d = t + s * (1.0 - t * t) * (e / (1.0 + e))
    elif ACTIVATION == "sigmoid":
        d = s * (1.0 - s)
    elif ACTIVATION == "tanh":
        d = 1.0 - s * s
    elif ACTIVATION == "hardswish":
        d = tl.where(s <= -3.0, 0.0, tl.where(s < 3.0, s * (1.0 / 3.0) + 0.5, 1.0))
    elif ACTIVATION == "hardsigmoid":
        d = tl.where((s > -3.0) & (s < 3.0), 1.0 / 6.0, 0.0)
    elif ACTIVATION == "hardtanh":
        d = tl.where((s > a) & (s < b), 1.0, 0.0)
    elif ACTIVATION == "softplus":
        d = tl.where(s * a > b, 1.0, sigmoid(s * a))
    elif ACTIVATION == "softsign":
        r = 1.0 / (1.0 + tl.abs(s))
        d = r * r
    elif ACTIVATION == "selu":
        d = SELU_SCALE * tl.where(s > 0.0, 1.0, SELU_ALPHA * tl.exp(s))
    elif ACTIVATION == "celu":
        d = tl.where(s > 0.0, 1.0, tl.exp(s / a))
    elif ACTIVATION == "logsigmoid":
        d = sigmoid(-s)
    elif ACTIVATION == "hardshrink":
        d = tl.where((s >= -a) & (s <= a), 0.0, 1.0)
    elif ACTIVATION == "softshrink":
        d = tl.where((s > a) | (s < -a), 1.0, 0.0)
    elif ACTIVATION == "threshold":
        d = tl.where(s > a, 1.0, 0.0)
    else:
        tl.static_assert(ACTIVATION == "none", "unknown activation")
    return d
