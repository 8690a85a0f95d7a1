"""Sums, means and maxima of rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _C
from .embedding import checked_padding_idx, renorm

if TYPE_CHECKING:
    from ..tensor import Tensor

    Array = Tensor | np.ndarray


def _record(weight, input, offsets, per_sample_weights, mode, include_last_offset, padding_idx, scale_grad_by_freq):
    bags = (mode, per_sample_weights, include_last_offset, padding_idx)
    y, maxima = _C.embedding_bag(weight, input, offsets, *bags)
    return y, (weight, input, offsets, maxima, *bags, scale_grad_by_freq)


def _backward(ctx, grad):
    need_weight, need_samples = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    grad_weight, grad_samples = _C.embedding_bag_backward(grad, *ctx.saved, need_weight, need_samples)
    return grad_weight, None, None, grad_samples


_embedding_bag = _C.Op("embedding_bag", lambda *arguments: _record(*arguments)[0], _record, _backward)


def embedding_bag(
    input: Array,
    weight: Array,
    offsets: Array | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Array | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """y[b, :] = sum, mean or max of weight[i, :] over the indices i of bag b; 0 for a bag of none.

    Sums are in float32 (float64 for float64) in the order of indices, which the gradient of a row keeps too.

    Args:
        input: indices, int64 or int32: (B, N), a bag in each row, or (n,), with offsets.
        weight: (num_embeddings, embedding_dim); float32, bfloat16, float16 or float64.
        offsets: (B,), where each bag begins in input, from 0 on, rising; int64 or int32.
        max_norm, norm_type: as in embedding.
        scale_grad_by_freq: divide the gradient of a row by how often it is used; not for mode "max".
        mode: "sum", "mean" or "max"; of equal elements the gradient goes to the first.
        sparse: only False.
        per_sample_weights: factor for each index, of input's shape and weight's dtype; for mode "sum".
        include_last_offset: offsets has (B + 1,), the last is the end of the last bag.
        padding_idx: this index counts for nothing and gets no gradient; negative counts from the end.

    Returns: (B, embedding_dim) in the dtype of weight.

    Raises:
        IndexError: an index is out of range. Nothing is written then.
        ValueError: shapes do not fit, offsets do not rise from 0, an unknown mode, padding_idx out of range.
        NotImplementedError: another dtype, sparse=True, per_sample_weights or scale_grad_by_freq in another mode.
    """
    op = "embedding_bag"
    if sparse:
        raise NotImplementedError(f"{op}: sparse=True is not supported; the gradient of weight is dense")
    if mode == "max" and scale_grad_by_freq:
        raise NotImplementedError(f"{op}: scale_grad_by_freq with mode 'max'; expected mode 'sum' or 'mean'")
    if per_sample_weights is not None and tuple(per_sample_weights.shape) != tuple(input.shape):
        raise ValueError(
            f"{op}: per_sample_weights has shape {tuple(per_sample_weights.shape)} but input {tuple(input.shape)}; "
            "expected one shape"
        )
    if input.ndim == 2:
        if offsets is not None:
            raise ValueError(f"{op}: offsets beside input of shape {tuple(input.shape)}; expected None, or 1-d input")
        bags, size = input.shape
        offsets = _like(input, np.arange(0, bags * size, size) if size else np.zeros(bags, np.int64))
        input = input.reshape(-1)
        if per_sample_weights is not None:
            per_sample_weights = per_sample_weights.reshape(-1)
        include_last_offset = False
    elif input.ndim != 1:
        raise ValueError(f"{op}: input has shape {tuple(input.shape)}; expected (B, N), or (n,) with offsets")
    elif offsets is None:
        raise ValueError(f"{op}: offsets is None; expected where bags begin in input of shape {tuple(input.shape)}")
    padding_idx = checked_padding_idx(op, padding_idx, weight)
    if max_norm is not None:
        renorm(op, weight, input, max_norm, norm_type)
    return _embedding_bag(
        weight,
        input,
        offsets,
        per_sample_weights,
        mode,
        bool(include_last_offset),
        padding_idx,
        bool(scale_grad_by_freq),
    )


def _like(array: Array, values: np.ndarray) -> Array:
    """values in the library of array."""
    return array.new_tensor(values) if hasattr(array, "new_tensor") else values
