"""fastnn: hand-written kernels for neural networks behind a thin Python layer."""

from . import functional, tensor as _tensor
from .tensor import Tensor, from_numpy, tensor

__all__ = ["Tensor", "from_numpy", "functional", "tensor"]
