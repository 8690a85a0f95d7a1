"""Tensor: an array with a gradient and a place on the tape."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from . import _C


class Tensor(_C.TensorBase):
    __slots__ = ()

    def backward(self, gradient=None) -> None:
        if gradient is None:
            gradient = from_numpy(np.ones(self.shape, self.dtype))
        _C.backward(self, gradient)


def from_numpy(array):
    return _C.from_numpy(array)


def tensor(data, dtype=None, requires_grad=False, device="cpu"):
    t = _C.clone(_C.from_numpy(np.asarray(data, dtype)))
    t.requires_grad = requires_grad
    return t


_C.set_tensor_type(Tensor)
_C.set_bfloat16(np.dtype(ml_dtypes.bfloat16))
_C.set_accumulate(_C.add, _C.add_in_place, _C.clone)
