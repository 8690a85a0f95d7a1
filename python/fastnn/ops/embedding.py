"""Rows of a table by index, and indices as rows of zeros and a one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _C
from ._arguments import integer
from .activation import _number

if TYPE_CHECKING:
    from ..tensor import Tensor


def _record(weight, input, padding_idx, scale_grad_by_freq):
    return _C.embedding(weight, input), (input, weight.shape, padding_idx, scale_grad_by_freq)


def _renormed_forward(weight, input, max_norm, norm_type):
    weight = _C.clone(weight)
    _C.embedding_renorm(weight, input, max_norm, norm_type)
    return weight


_embedding = _C.Op(
    "embedding",
    forward=lambda weight, input, padding_idx, scale_grad_by_freq: _C.embedding(weight, input),
    record=_record,
    backward=lambda ctx, grad: _C.embedding_backward(grad, *ctx.saved),
)
_renorm = _C.Op("embedding_renorm_", _C.embedding_renorm)
_renormed = _C.Op("embedding_renorm", _renormed_forward)


def embedding(
    input: Tensor | np.ndarray,
    weight: Tensor | np.ndarray,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """y[..., :] = weight[input[...], :]

    The gradient of a row is summed in float32 (float64 for float64) in the order of its indices.

    Args:
        input: indices (...), int64 or int32, each at least 0 and below num_embeddings.
        weight: (num_embeddings, embedding_dim).
        padding_idx: this row of weight gets no gradient; negative counts from the end.
        max_norm: first, rows that are used and whose norm is larger are scaled down to it, in place and unrecorded, as
            in torch: use `weight.clone()` in other places where a gradient of it is needed.
        norm_type: p of that norm (sum |w|^p)^(1/p).
        scale_grad_by_freq: divide the gradient of a row by how often it is used.
        sparse: only False.

    Returns: (..., embedding_dim) in the dtype of weight.

    Raises:
        IndexError: an index is out of range. Nothing is written then.
        ValueError: weight is no matrix, padding_idx is out of range.
        NotImplementedError: input is neither int64 nor int32, or sparse=True.
    """
    if sparse:
        raise NotImplementedError("embedding: sparse=True is not supported; the gradient of weight is dense")
    padding_idx = checked_padding_idx("embedding", padding_idx, weight)
    if max_norm is not None:
        renorm("embedding", weight, input, max_norm, norm_type)
    return _embedding(weight, input, padding_idx, bool(scale_grad_by_freq))


def checked_padding_idx(op: str, padding_idx: int | None, weight: Tensor | np.ndarray) -> int:
    """From 0 on; -1 for None."""
    if padding_idx is None:
        return -1
    rows = weight.shape[0] if len(weight.shape) else 0
    at = integer(padding_idx, op, "padding_idx")
    if not -rows <= at < rows:
        raise ValueError(f"{op}: padding_idx is {at}; expected {-rows} to {rows - 1} for {rows} embeddings")
    return at % rows


def renorm(op: str, weight: Tensor | np.ndarray, input: Tensor | np.ndarray, max_norm: float, norm_type: float) -> None:
    """Scales down the rows of weight that input names, in place and unrecorded."""
    max_norm, norm_type = _number(op, "max_norm", max_norm), _number(op, "norm_type", norm_type)
    if isinstance(weight, (_C.TensorBase, np.ndarray)):
        _renorm(weight.detach() if isinstance(weight, _C.TensorBase) else weight, input, max_norm, norm_type)
    elif hasattr(weight, "copy_"):  # torch's own change in place, which it counts
        weight.detach().copy_(_renormed(weight.detach(), input, max_norm, norm_type))
    else:
        raise NotImplementedError(
            f"{op}: max_norm changes weight in place, which is not supported for {type(weight).__name__}; "
            "expected a Tensor, a numpy array or a torch tensor"
        )


def _one_hot_forward(input, num_classes):
    if input.dtype != np.int64:
        raise NotImplementedError(f"one_hot: input has dtype {input.dtype}; expected int64")
    low, high = (_C.amin(input, (), False).item(), _C.amax(input, (), False).item()) if input.numel() else (0, -1)
    if num_classes == -1:
        num_classes = high + 1
        if not num_classes:
            raise ValueError("one_hot: input is empty; expected num_classes, which cannot be seen from it")
    if low < 0 or high >= num_classes:
        raise IndexError(f"one_hot: input holds {low} to {high}; expected 0 to {num_classes - 1}")
    out = np.zeros((*input.shape, num_classes), np.int64)
    np.put_along_axis(out, input.numpy()[..., None], 1, -1)
    return _C.from_numpy(out)


_one_hot = _C.Op("one_hot", _one_hot_forward)


def one_hot(tensor: Tensor | np.ndarray, num_classes: int = -1) -> Tensor:
    """y[..., c] = 1 if tensor[...] == c else 0, int64, for c < num_classes; -1: the largest index + 1.

    Raises:
        IndexError: an index is negative, or not below num_classes.
        ValueError: num_classes is neither -1 nor positive, or is needed because tensor is empty.
        NotImplementedError: tensor is not int64.
    """
    num_classes = integer(num_classes, "one_hot", "num_classes")
    if num_classes < 1 and num_classes != -1:
        raise ValueError(f"one_hot: num_classes is {num_classes}; expected a positive int, or -1")
    return _one_hot(tensor, num_classes)
