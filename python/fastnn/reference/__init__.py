"""The truth: every op in float64 numpy, shared by the tests and the benchmarks.

Each function has the name, argument positions, keywords and defaults of its namesake in torch.nn.functional. Inputs of
any real dtype (also ml_dtypes.bfloat16) are converted to float64 first and never written; results are float64 (indices
int64), and a 0-d result may be a numpy scalar. NaN and infinity go through as they do in torch. `inplace` keeps torch's
positions and has no effect. Optimizer steps are pure functions `(param, grad, state, ...) -> (param, state)`.
"""

from .activation import (
    celu,
    dropout,
    elu,
    gelu,
    glu,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softshrink,
    softsign,
    tanh,
    tanhshrink,
    threshold,
)
from .attention import embedding, scaled_dot_product_attention
from .conv import conv2d
from .gradient import numerical_gradient
from .linear import linear, matmul
from .loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from .optim import adagrad, adam, adamw, lion, rmsprop, sgd
from .pooling import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from .rnn import gru_layer, lstm_layer, rnn_layer

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "conv2d",
    "cross_entropy",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "glu",
    "gru_layer",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "leaky_relu",
    "linear",
    "lion",
    "log_softmax",
    "logsigmoid",
    "lstm_layer",
    "matmul",
    "max_pool2d",
    "mish",
    "mse_loss",
    "nll_loss",
    "numerical_gradient",
    "prelu",
    "relu",
    "relu6",
    "rmsprop",
    "rnn_layer",
    "scaled_dot_product_attention",
    "selu",
    "sgd",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
]
