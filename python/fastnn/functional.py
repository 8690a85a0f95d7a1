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
from .ops.conv2d import (
    conv2d,
)
from .ops.cross_entropy import (
    cross_entropy,
    nll_loss,
)
from .ops.dropout import (
    dropout,
)
from .ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from .ops.matmul import (
    linear,
    matmul,
)
from .ops.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    normalize,
    rms_norm,
)
from .ops.pooling import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    max_pool2d,
)
from .ops.softmax import (
    log_softmax,
    softmax,
)
from .ops.unary import (
    abs,
    exp,
    expm1,
    log,
    log1p,
    neg,
    sqrt,
)

__all__ = [
    "abs",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "cross_entropy",
    "dropout",
    "elu",
    "exp",
    "expm1",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "instance_norm",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log",
    "log1p",
    "log_softmax",
    "matmul",
    "max_pool2d",
    "mish",
    "mse_loss",
    "neg",
    "nll_loss",
    "normalize",
    "relu",
    "relu6",
    "rms_norm",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "softsign",
    "sqrt",
    "tanh",
]
