"""The public functions, with the names, positions, keywords and defaults of torch.nn.functional."""

from .ops.activation import (
    celu,
    elu,
    gelu,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softshrink,
    softsign,
    tanh,
    threshold,
)
from .ops.activation_composed import (
    glu,
    prelu,
    tanhshrink,
)
from .ops.arithmetic import (
    add,
    clamp,
    div,
    maximum,
    minimum,
    mul,
    pow,
    sub,
    where,
)
from .ops.attention import (
    scaled_dot_product_attention,
)
from .ops.conv1d import (
    conv1d,
)
from .ops.conv2d import (
    conv2d,
)
from .ops.conv3d import (
    conv3d,
)
from .ops.conv_transpose import (
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from .ops.cross_entropy import (
    cross_entropy,
    nll_loss,
)
from .ops.dropout import (
    dropout,
)
from .ops.embedding import (
    embedding,
    one_hot,
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
    bmm,
    linear,
    matmul,
)
from .ops.padding import (
    pad,
)
from .ops.pooling import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    max_pool2d,
)
from .ops.pooling1d import (
    adaptive_avg_pool1d,
    adaptive_max_pool1d,
    avg_pool1d,
    max_pool1d,
)
from .ops.reduction import (
    amax,
    amin,
    argmax,
    argmin,
    max,
    mean,
    min,
    sum,
)
from .ops.shape import (
    cat,
    chunk,
    flatten,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    transpose,
    unsqueeze,
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
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "add",
    "amax",
    "amin",
    "argmax",
    "argmin",
    "avg_pool1d",
    "avg_pool2d",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "bmm",
    "cat",
    "celu",
    "chunk",
    "clamp",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "div",
    "dropout",
    "elu",
    "embedding",
    "exp",
    "expm1",
    "flatten",
    "gelu",
    "glu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "leaky_relu",
    "linear",
    "log",
    "log1p",
    "log_softmax",
    "logsigmoid",
    "matmul",
    "max",
    "max_pool1d",
    "max_pool2d",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mish",
    "mse_loss",
    "mul",
    "neg",
    "nll_loss",
    "one_hot",
    "pad",
    "permute",
    "pow",
    "prelu",
    "relu",
    "relu6",
    "reshape",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "softshrink",
    "softsign",
    "split",
    "sqrt",
    "squeeze",
    "stack",
    "sub",
    "sum",
    "tanh",
    "tanhshrink",
    "threshold",
    "transpose",
    "unsqueeze",
    "where",
]
