"""fastnn: hand-written kernels for neural networks behind a thin Python layer."""

from . import functional, init, modules, optim, utils
from ._C import set_num_threads
from .modules import *  # noqa: F403
from .parameter import Parameter
from .random import manual_seed
from .tensor import Tensor, from_numpy, tensor

__all__ = [
    "Parameter",
    "Tensor",
    "from_numpy",
    "functional",
    "init",
    "manual_seed",
    "optim",
    "tensor",
    "utils",
]
__all__ += modules.__all__
