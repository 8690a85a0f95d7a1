"""Attention and embedding."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ._common import as_float64, quiet


@quiet
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    dropout_mask: ArrayLike | None = None,
) -> np.ndarray:
    """y = dropout(softmax(scale q k^T + mask)) v; 0 for a query whose keys are all masked.

    `dropout_mask` (true = kept) stands for torch's generator.
    """
    q, k, v = as_float64(query), as_float64(key), as_float64(value)
    if enable_gqa:
        group = q.shape[-3] // k.shape[-3]
        k, v = np.repeat(k, group, axis=-3), np.repeat(v, group, axis=-3)
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1] or 1)
    scores = q @ np.swapaxes(k, -1, -2) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if attn_mask is not None:
        mask = np.asarray(attn_mask)
        scores = scores + (np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask.astype(np.float64))
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    distance = np.arange(scores.shape[-1]) - np.arange(scores.shape[-2])[:, None]
    for limit, far in zip(window_size, (-distance, distance), strict=True):
        if limit >= 0:
            scores = np.where(far > limit, -np.inf, scores)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(top == -np.inf, 0.0, top))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights / np.where(total == 0, 1.0, total)
    if dropout_p:
        if dropout_mask is None:
            raise ValueError("scaled_dot_product_attention: dropout_mask is None; expected the mask of kept weights")
        keep = np.asarray(dropout_mask).astype(bool)
        weights = weights * (keep / (1 - dropout_p) if dropout_p < 1 else 0.0)
    return weights @ v


@quiet
def rotary_embedding(input: ArrayLike, cos: ArrayLike, sin: ArrayLike, interleaved: bool = False) -> np.ndarray:
    """Pairs of columns (i, R / 2 + i), or (2 i, 2 i + 1), turned by the angles of cos and sin (..., L, R / 2)."""
    y, c, s = as_float64(input).copy(), as_float64(cos), as_float64(sin)
    half = c.shape[-1]
    a, b = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))
    x = as_float64(input)
    y[..., a], y[..., b] = x[..., a] * c - x[..., b] * s, x[..., b] * c + x[..., a] * s
    return y


@quiet
def embedding(
    input: ArrayLike,
    weight: ArrayLike,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> np.ndarray:
    """y[..., :] = weight[input[...], :]. With max_norm, rows are scaled down in the result; weight is not written."""
    rows = as_float64(weight)[np.asarray(input)]
    if max_norm is None:
        return rows
    norm = np.linalg.norm(rows, norm_type, axis=-1, keepdims=True)
    return np.where(norm > max_norm, rows * (max_norm / (norm + 1e-7)), rows)
