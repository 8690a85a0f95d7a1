"""fastnn: hand-written kernels for neural networks behind a thin Python layer."""

from . import functional, tensor as _tensor
from .tensor import Tensor, from_numpy, tensor
from ._C import set_num_threads

__all__ = ["Tensor", "from_numpy", "functional", "tensor"]
