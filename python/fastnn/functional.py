"""The public functions, with the names, positions, keywords and defaults of torch.nn.functional."""

from .ops.activation import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    mish,
    relu,
    relu6,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
)
from .ops.conv2d import conv2d
from .ops.matmul import linear, matmul
from .ops.softmax import log_softmax, softmax
from .ops.unary import abs, exp, expm1, log, log1p, neg, sqrt

__all__ = [
    "abs",
    "conv2d",
    "elu",
    "exp",
    "expm1",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "linear",
    "log",
    "log1p",
    "log_softmax",
    "matmul",
    "mish",
    "neg",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "sqrt",
    "tanh",
]
