"""Dropout with a counter-based generator: nothing is saved for the gradient, which makes the mask again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _C
from ..random import next_philox
from ._foreign import random_key
from .activation import _number, _write_back

if TYPE_CHECKING:
    from ..tensor import Tensor


def _record(x, p):
    return _record_with(x, p, *next_philox())


def _record_with(x, p, seed, offset):
    y, channels_last = _C.dropout(x, p, seed, offset)
    return y, (p, seed, offset, channels_last)


_dropout = _C.Op(
    "dropout",
    forward=lambda x, p: _C.dropout(x, p, *next_philox())[0],
    record=_record,
    backward=lambda ctx, grad: _C.dropout_backward(grad, *ctx.saved),
)

# The same with the two words of the generator in an int64 tensor: what PyTorch draws, records and repeats.
_keyed_dropout = _C.Op(
    "dropout",
    forward=lambda x, p, key: _C.dropout(x, p, *key.tolist())[0],
    record=lambda x, p, key: _record_with(x, p, *key.tolist()),
    backward=lambda ctx, grad: _C.dropout_backward(grad, *ctx.saved),
)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """y = x m / (1 - p) with m_i = 0 with probability p and 1 otherwise, in training; else y = x.

    Srivastava et al. 2014, JMLR 15. The mask comes from Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
    easy as 1, 2, 3"): m_i depends on `fastnn.manual_seed`, on how many dropout calls came before, and on i, not on the
    number of threads or the instruction set. i counts in memory order where input is row-major or channels_last, else
    in row-major order. For torch tensors the generator is torch's (`torch.manual_seed`).

    Args:
        input: floating, any shape.
        p: probability of an element to be dropped. 1 drops all of them; 0 returns `input` itself.
        training: False returns `input` itself.
        inplace: writes the result into the memory of `input` and returns `input`, unless a gradient is recorded.

    Raises:
        TypeError: p is no number.
        ValueError: p is outside of [0, 1].
        NotImplementedError: the dtype is not floating.
    """
    p = _number("dropout", "p", p)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p is {p}; expected a probability between 0 and 1")
    if not training or p == 0:
        return input
    if isinstance(input, (_C.TensorBase, np.ndarray)):
        y = _dropout(input, p)
    else:
        key = random_key(input)
        y = _dropout(input, p) if key is None else _keyed_dropout(input, p, key)
    return _write_back("dropout", input, y) if inplace else y
