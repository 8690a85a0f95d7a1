"""Parameter: a Tensor that modules register and optimizers change."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from . import _C
from .tensor import Tensor, tensor


class Parameter(Tensor):
    """A Tensor that is a parameter of a Module when it is assigned to one of its attributes.

    Args:
        data: a Tensor, whose memory is shared, or anything that `fastnn.tensor` takes, which is copied.
        requires_grad: whether operations on it are recorded. Parameters with gradients are floating.
    """

    __slots__ = ()

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Parameter:
        if data is None:
            data = np.empty(0, np.float32)
        parameter = (data if isinstance(data, Tensor) else tensor(data))._as_subclass(cls)
        parameter.requires_grad = requires_grad
        return parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        copied = type(self)(_C.clone(self), self.requires_grad)
        memo[id(self)] = copied
        if self.grad is not None:
            copied.grad = copy.deepcopy(self.grad, memo)
        return copied

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (type(self), np.array(self.detach().cpu().numpy()), self.requires_grad, self.device)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


def _rebuild(cls: type[Parameter], array: np.ndarray, requires_grad: bool, device: str = "cpu") -> Parameter:
    return cls(tensor(array, device=device), requires_grad)
