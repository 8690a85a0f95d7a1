"""Scaled dot-product attention, and the rotation of queries and keys by their positions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _C
from ..random import next_philox
from . import _foreign, shape
from ._arguments import integer
from .activation import _number

if TYPE_CHECKING:
    from ..tensor import Tensor

    Array = Tensor | np.ndarray


def _record(query, key, value, attn_mask, is_causal, scale, dropout_p, words, softcap, left, right):
    details = (is_causal, scale, dropout_p, *_seed_and_offset(words), softcap, left, right)
    y, log_sum = _C.attention(query, key, value, attn_mask, *details)
    return y, (query, key, value, attn_mask, y, log_sum, is_causal, scale, dropout_p, words, softcap, left, right)


def _backward(ctx, grad):
    need_query, need_key, need_value, need_mask = ctx.needs_input_grad[:4]
    *saved, words, softcap, left, right = ctx.saved
    *grads, grad_mask = _C.attention_backward(
        grad, *saved, *_seed_and_offset(words), softcap, left, right, need_query, need_key or need_value, need_mask
    )
    if need_mask:
        mask = ctx.saved[3]
        grad_mask = _C.astype(_C.sum_to(grad_mask, mask.shape), mask.dtype)
    return (*grads, grad_mask)


def _seed_and_offset(words):
    return words if isinstance(words, tuple) else words.tolist()


# `words` are the seed and the offset of the dropout: a tuple, or an int64 tensor from the generator of torch.
_attention = _C.Op("scaled_dot_product_attention", lambda *arguments: _record(*arguments)[0], _record, _backward)


def _words(query: Array) -> Any:
    if not isinstance(query, (_C.TensorBase, np.ndarray)):
        words = _foreign.random_key(query)
        if words is not None:
            return words
    return next_philox()


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:
    """y = dropout(softmax(scale query key^T + mask)) value. Vaswani et al. 2017, arXiv:1706.03762.

    Computed tile by tile, so that the (L, S) scores are never held (Dao et al. 2022, arXiv:2205.14135), forward and
    backward; only a gradient of attn_mask has their size. Sums are in float32 (float64 for float64), in an order that
    depends on the shapes only. Up to 4 queries, as in decoding with a cache, read keys and values once, by parts that
    threads share.

    Args:
        query: (..., H, L, E). key: (..., H, S, E). value: (..., H, S, Ev). Leading sizes broadcast.
        attn_mask: broadcasts to (..., H, L, S). bool: False hides a key from a query; floating: added to the scores.
            A query that sees no key gets 0.
        dropout_p: probability of a weight to be dropped, always applied (there is no `training`); others are divided by
            1 - dropout_p. The mask is Philox4x32-10, see functional.dropout; torch tensors take seed and offset from
            torch's generator.
        is_causal: query i sees keys 0 to i; with attn_mask, both hold.
        scale: default 1 / sqrt(E).
        enable_gqa: key and value may have H / G heads: query head h uses their head h // G. Ainslie et al. 2023,
            arXiv:2305.13245.
        window_size: (left, right): query i sees keys i - left to i + right, -1: no limit; is_causal and attn_mask hold
            too. Only blocks of keys inside are visited. Beltagy et al. 2020, arXiv:2004.05150. On the CPU.
        softcap: c > 0 bounds scaled scores before the mask: c tanh(s / c). Gemma 2, arXiv:2408.00118. On the CPU.

    Returns: (..., H, L, Ev) in the dtype of query, in its layout too if that is dense and Ev = E.

    Raises:
        ValueError: shapes that do not fit, dropout_p outside of [0, 1], a negative or infinite softcap, window_size
            below -1.
        TypeError: dtypes of query, key and value differ, or a number is expected.
        NotImplementedError: the dtype is none of float32, bfloat16, float16, float64, or attn_mask's is not bool,
            float32 or query's.
    """
    op = "scaled_dot_product_attention"
    dropout_p = _number(op, "dropout_p", dropout_p)
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1] or 1) if query.shape else 1.0
    if query.shape[:-2] != key.shape[:-2] or query.shape[:-2] != value.shape[:-2]:
        query, key, value = _broadcast(op, query, key, value, enable_gqa)
    left, right = (-1, -1) if window_size == (-1, -1) else _window(op, window_size)
    return _attention(
        query,
        key,
        value,
        attn_mask,
        bool(is_causal),
        _number(op, "scale", scale),
        dropout_p,
        _words(query) if dropout_p else (0, 0),
        _number(op, "softcap", softcap),
        left,
        right,
    )


def _window(op: str, window_size: Any) -> tuple[int, int]:
    if not isinstance(window_size, (tuple, list)) or len(window_size) != 2:
        raise ValueError(f"{op}: window_size is {window_size!r}; expected (left, right)")
    left, right = (integer(size, op, "window_size") for size in window_size)
    if left < -1 or right < -1:
        raise ValueError(f"{op}: window_size is {window_size!r}; expected numbers of keys, or -1 for no limit")
    return left, right


def _broadcast(op: str, query: Array, key: Array, value: Array, enable_gqa: bool) -> tuple[Array, Array, Array]:
    """The three with equal leading sizes; with enable_gqa, fewer heads in key and value are left alone."""
    arrays = (query, key, value)
    own = 3 if enable_gqa else 2  # axes at the end that do not broadcast
    if any(a.ndim < own for a in arrays):
        raise ValueError(
            f"{op}: query, key and value have shapes {', '.join(str(tuple(a.shape)) for a in arrays)}; expected at "
            f"least {own} dimensions"
        )
    if enable_gqa:
        heads = [a.shape[-3] for a in arrays]
        if heads[1] != heads[2] or not heads[1] or heads[0] % heads[1]:
            raise ValueError(
                f"{op}: query has {heads[0]} heads, key {heads[1]} and value {heads[2]}; expected as many in key as in "
                "value, a divisor of query's"
            )
    lead: tuple[int, ...] = ()
    for a in arrays:
        sizes = tuple(a.shape[:-own])
        padded, lead = (1,) * (len(lead) - len(sizes)) + sizes, (1,) * (len(sizes) - len(lead)) + lead
        for x, y in zip(padded, lead, strict=True):
            if x != y and 1 not in (x, y):
                raise ValueError(
                    f"{op}: query, key and value have shapes {', '.join(str(tuple(a.shape)) for a in arrays)}; "
                    f"expected leading sizes that broadcast{'' if enable_gqa else ' (or enable_gqa=True)'}"
                )
        lead = tuple(y if x == 1 else x for x, y in zip(padded, lead, strict=True))
    return tuple(a if tuple(a.shape[:-own]) == lead else shape._expand(a, lead + tuple(a.shape[-own:])) for a in arrays)


def _rotary_record(input, cos, sin, interleaved):
    return _C.rotary_embedding(input, cos, sin, interleaved, False), (cos, sin, interleaved)


def _rotary_backward(ctx, grad):
    if any(ctx.needs_input_grad[1:3]):
        raise NotImplementedError("rotary_embedding: cos and sin have no gradients; expected ones that require none")
    return _C.rotary_embedding(grad, *ctx.saved, True)


_rotary = _C.Op(
    "rotary_embedding",
    lambda input, cos, sin, interleaved: _C.rotary_embedding(input, cos, sin, interleaved, False),
    _rotary_record,
    _rotary_backward,
)


def rotary_embedding(input: Array, cos: Array, sin: Array, interleaved: bool = False) -> Tensor:
    """Pairs of columns turned by an angle for each position: for i < R / 2, with c = cos[l, i], s = sin[l, i],

        y[l, i] = x[l, i] c - x[l, R / 2 + i] s;   y[l, R / 2 + i] = x[l, R / 2 + i] c + x[l, i] s

    or, interleaved, of columns 2 i and 2 i + 1. Columns from R on are copied. Su et al. 2021, arXiv:2104.09864, where
    the angle is l 10000^(-2 i / R).

    Args:
        input: queries or keys (..., L, E); float32, bfloat16, float16 or float64.
        cos, sin: (..., L, R / 2), R <= E, which broadcast to the leading sizes; float32 or input's dtype. They have no
            gradients.

    Returns: (..., L, E) in the dtype of input, in its layout if that is dense with contiguous rows.

    Raises:
        ValueError: shapes that do not fit.
        NotImplementedError: another dtype, a gradient of cos or sin.
    """
    return _rotary(input, cos, sin, bool(interleaved))
