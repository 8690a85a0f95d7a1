"""Attention without the matrix of scores, forward and backward.

Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691. Gradients are sums in a fixed order: queries and keys
each have a kernel of their own, and nothing is added atomically.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, check_shape, check_tensors, next_power_of_2, on_device, wrap_triton

LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class AttentionConfig:
    """Queries and keys of a block, and the launch."""

    queries: int
    keys: int
    warps: int
    stages: int

    def keywords(self) -> dict[str, int]:
        return {"M": self.queries, "N": self.keys, "num_warps": self.warps, "num_stages": self.stages}


# By (bytes of an element, head size up to): what a thread holds without spilling, and two to three blocks in flight in
# shared memory of an A100 (163 KiB). In the gradients of heads of 256 only tiles too small for wgmma do not spill, so
# they run by mma.sync. None was measured yet.
FORWARD = {
    (2, 64): AttentionConfig(128, 64, 8, 3),
    (2, 128): AttentionConfig(128, 64, 8, 3),
    (2, 256): AttentionConfig(64, 64, 8, 2),
    (4, 64): AttentionConfig(64, 32, 4, 2),
    (4, 128): AttentionConfig(64, 32, 8, 2),
    (4, 256): AttentionConfig(32, 16, 8, 1),
}
# dk and dv: a program's keys against all queries
BACKWARD_KEYS = {
    (2, 64): AttentionConfig(32, 64, 8, 2),
    (2, 128): AttentionConfig(32, 64, 8, 2),
    (2, 256): AttentionConfig(32, 32, 8, 1),
    (4, 64): AttentionConfig(32, 32, 4, 1),
    (4, 128): AttentionConfig(32, 32, 8, 1),
    (4, 256): AttentionConfig(16, 16, 8, 1),
}
# dq: a program's queries against all keys
BACKWARD_QUERIES = {
    (2, 64): AttentionConfig(128, 64, 8, 2),
    (2, 128): AttentionConfig(128, 32, 8, 2),
    (2, 256): AttentionConfig(32, 32, 8, 1),
    (4, 64): AttentionConfig(32, 32, 4, 1),
    (4, 128): AttentionConfig(32, 32, 8, 1),
    (4, 256): AttentionConfig(16, 16, 8, 1),
}

# ---- kernels ---------------------------------------------------------------------------------------------------------
# Scores are in units of log2: exp2 is one instruction. MASK: 0 none, 1 boolean (true: seen), 2 added to the scores.


@triton.jit
def _masked(s, mask, row, col, length, keys, mask_l, mask_s, MASK: tl.constexpr, CAUSAL: tl.constexpr):
    """s of the pairs that see each other, -inf for the others. row and col broadcast against s."""
    seen = col < keys
    if CAUSAL:
        seen = seen & (col <= row)
    if MASK != 0:
        at = mask + row.to(tl.int64) * mask_l + col.to(tl.int64) * mask_s
        inside = (row < length) & (col < keys)
        if MASK == 1:
            seen = seen & (tl.load(at, mask=inside, other=0) != 0)
        else:
            s = s + tl.load(at, mask=inside, other=0.0).to(tl.float32) * LOG2_E
    return tl.where(seen, s, float("-inf"))


@triton.jit
def _forward_blocks(
    total, norm, top, q, k, v, mask, row, first, last, length, keys, scale, k_s, v_s, mask_l, mask_s, size, value_size,
    EDGE: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr, N: tl.constexpr,
    D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys from first up to last; all rows see all of them unless EDGE."""
    d = tl.arange(0, D)
    e = tl.arange(0, E)
    for start in range(first, last, N):
        col = start + tl.arange(0, N)
        keys_in = (col < keys)[None, :] & (d < size)[:, None]
        values_in = (col < keys)[:, None] & (e < value_size)[None, :]
        kt = tl.load(k + col.to(tl.int64)[None, :] * k_s + d[:, None], mask=keys_in, other=0.0)
        s = tl.dot(q, kt, input_precision=PRECISION) * scale
        if EDGE:
            s = _masked(s, mask, row[:, None], col[None, :], length, keys, mask_l, mask_s, MASK, CAUSAL)
        new = tl.maximum(top, tl.max(s, 1))
        shift = tl.where(new == float("-inf"), 0.0, new)  # a row that has seen no key yet
        p = tl.exp2(s - shift[:, None])
        fade = tl.exp2(top - shift)
        norm = norm * fade + tl.sum(p, 1)
        u = tl.load(v + col.to(tl.int64)[:, None] * v_s + e[None, :], mask=values_in, other=0.0)
        total = tl.dot(p.to(u.dtype), u, total * fade[:, None], input_precision=PRECISION)
        top = new
    return total, norm, top


@triton.jit
def _attention_kernel(
    q, k, v, mask, o, log_sum, heads, group, length, keys, scale, size, value_size,
    q_b, q_h, q_l, k_b, k_h, k_s, v_b, v_h, v_s, o_b, o_h, o_l, mask_b, mask_h, mask_l, mask_s,
    MASK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """M queries of one head. log_sum (batch, heads, length): log2 of the sum of the exponentials, for backward."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    first_row = tl.program_id(0) * M
    row = first_row + tl.arange(0, M)
    d = tl.arange(0, D)
    e = tl.arange(0, E)
    q += batch * q_b + head * q_h
    k += batch * k_b + head // group * k_h
    v += batch * v_b + head // group * v_h
    mask += batch * mask_b + head * mask_h
    query = tl.load(
        q + row.to(tl.int64)[:, None] * q_l + d[None, :], mask=(row < length)[:, None] & (d < size)[None, :], other=0.0
    )
    total = tl.zeros((M, E), tl.float32)
    norm = tl.zeros((M,), tl.float32)
    top = tl.full((M,), float("-inf"), tl.float32)
    last = keys
    whole = keys // N * N  # keys up to here are seen by all rows
    if CAUSAL:
        last = tl.minimum(keys, first_row + M)
        whole = tl.minimum(whole, (first_row + 1) // N * N)
    if MASK != 0:
        whole = 0
    else:
        total, norm, top = _forward_blocks(
            total, norm, top, query, k, v, mask, row, 0, whole, length, keys, scale * LOG2_E, k_s, v_s, mask_l, mask_s,
            size, value_size, False, MASK, CAUSAL, PRECISION, N, D, E,
        )  # fmt: skip
    total, norm, top = _forward_blocks(
        total, norm, top, query, k, v, mask, row, whole, last, length, keys, scale * LOG2_E, k_s, v_s, mask_l, mask_s,
        size, value_size, True, MASK, CAUSAL, PRECISION, N, D, E,
    )  # fmt: skip
    # 0 for a query that sees no key
    out = total / tl.where(norm == 0.0, 1.0, norm)[:, None]
    o += batch * o_b + head * o_h
    inside = (row < length)[:, None] & (e < value_size)[None, :]
    tl.store(o + row.to(tl.int64)[:, None] * o_l + e[None, :], out.to(o.dtype.element_ty), mask=inside)
    tl.store(log_sum + tl.program_id(1).to(tl.int64) * length + row, top + tl.log2(norm), mask=row < length)


@triton.jit
def _delta_kernel(
    o, do, delta, heads, length, value_size, o_b, o_h, o_l, g_b, g_h, g_l, M: tl.constexpr, E: tl.constexpr
):
    """delta = sum over a row of o do."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    row = tl.program_id(0) * M + tl.arange(0, M)
    e = tl.arange(0, E)[None, :]
    inside = (row < length)[:, None] & (e < value_size)
    at = row.to(tl.int64)[:, None]
    a = tl.load(o + batch * o_b + head * o_h + at * o_l + e, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(do + batch * g_b + head * g_h + at * g_l + e, mask=inside, other=0.0).to(tl.float32)
    tl.store(delta + tl.program_id(1).to(tl.int64) * length + row, tl.sum(a * b, 1), mask=row < length)


@triton.jit
def _key_blocks(
    dk, dv, kt, vt, q, do, log_sum, delta, mask, col, first, last, length, keys, scale, q_l, g_l, mask_l, mask_s, size,
    value_size, EDGE: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Adds what the queries from first up to last give to dk (without the scale) and dv of the keys `col`."""
    d = tl.arange(0, D)
    e = tl.arange(0, E)
    for start in range(first, last, M):
        row = start + tl.arange(0, M)
        at = row.to(tl.int64)
        query = tl.load(
            q + at[:, None] * q_l + d[None, :], mask=(row < length)[:, None] & (d < size)[None, :], other=0.0
        )
        # transposed: keys are rows
        s = tl.dot(kt, tl.trans(query), input_precision=PRECISION) * scale
        if EDGE:
            s = _masked(s, mask, row[None, :], col[:, None], length, keys, mask_l, mask_s, MASK, CAUSAL)
        # infinite where there is no query, or one that sees no key: p = 0
        total = tl.load(log_sum + row, mask=row < length, other=float("inf"))
        p = tl.exp2(s - tl.where(total == float("-inf"), float("inf"), total)[None, :])
        grad = tl.load(
            do + at[:, None] * g_l + e[None, :], mask=(row < length)[:, None] & (e < value_size)[None, :], other=0.0
        )
        dv = tl.dot(p.to(grad.dtype), grad, dv, input_precision=PRECISION)
        dp = tl.dot(vt, tl.trans(grad), input_precision=PRECISION)
        ds = p * (dp - tl.load(delta + row, mask=row < length, other=0.0)[None, :])
        dk = tl.dot(ds.to(query.dtype), query, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit
def _attention_keys_kernel(
    q, k, v, mask, do, log_sum, delta, dk, dv, heads, group, length, keys, scale, size, value_size,
    q_b, q_h, q_l, k_b, k_h, k_s, v_b, v_h, v_s, g_b, g_h, g_l, mask_b, mask_h, mask_l, mask_s,
    MASK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """dk and dv of N keys of one head of keys, over all queries of its `group` heads, one after the other."""
    key_heads = heads // group
    batch = (tl.program_id(1) // key_heads).to(tl.int64)
    key_head = tl.program_id(1) % key_heads
    first_col = tl.program_id(0) * N
    col = first_col + tl.arange(0, N)
    at = col.to(tl.int64)[:, None]
    d = tl.arange(0, D)[None, :]
    e = tl.arange(0, E)[None, :]
    keys_in = (col < keys)[:, None] & (d < size)
    values_in = (col < keys)[:, None] & (e < value_size)
    kt = tl.load(k + batch * k_b + key_head.to(tl.int64) * k_h + at * k_s + d, mask=keys_in, other=0.0)
    vt = tl.load(v + batch * v_b + key_head.to(tl.int64) * v_h + at * v_s + e, mask=values_in, other=0.0)
    dk_sum = tl.zeros((N, D), tl.float32)
    dv_sum = tl.zeros((N, E), tl.float32)
    first = 0
    whole = 0  # queries from here on see all keys of the block; the loop before goes in steps of M
    if CAUSAL:
        first = first_col // M * M
        whole = tl.cdiv(first_col + N - 1, M) * M
    if (MASK != 0) | (first_col + N > keys):
        whole = length
    whole = tl.minimum(whole, length)
    for i in range(0, group):
        head = tl.cast(key_head * group + i, tl.int64)
        q_head = q + batch * q_b + head * q_h
        g_head = do + batch * g_b + head * g_h
        line = (batch * heads + head) * length
        mask_head = mask + batch * mask_b + head * mask_h
        dk_sum, dv_sum = _key_blocks(
            dk_sum, dv_sum, kt, vt, q_head, g_head, log_sum + line, delta + line, mask_head, col, first, whole, length,
            keys, scale * LOG2_E, q_l, g_l, mask_l, mask_s, size, value_size, True, MASK, CAUSAL, PRECISION, M, D, E,
        )  # fmt: skip
        if MASK == 0:
            dk_sum, dv_sum = _key_blocks(
                dk_sum, dv_sum, kt, vt, q_head, g_head, log_sum + line, delta + line, mask_head, col,
                tl.maximum(first, whole), length, length, keys, scale * LOG2_E, q_l, g_l, mask_l, mask_s, size,
                value_size, False, MASK, CAUSAL, PRECISION, M, D, E,
            )  # fmt: skip
    line = tl.program_id(1).to(tl.int64) * keys
    tl.store(dk + (line + at) * size + d, (dk_sum * scale).to(dk.dtype.element_ty), mask=keys_in)
    tl.store(dv + (line + at) * value_size + e, dv_sum.to(dv.dtype.element_ty), mask=values_in)


@triton.jit
def _query_blocks(
    dq, query, grad, total, offset, k, v, mask, row, first, last, length, keys, scale, k_s, v_s, mask_l, mask_s, size,
    value_size, EDGE: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    N: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Adds what the keys from first up to last give to dq (without the scale)."""
    d = tl.arange(0, D)
    e = tl.arange(0, E)
    for start in range(first, last, N):
        col = start + tl.arange(0, N)
        at = col.to(tl.int64)[:, None]
        kt = tl.load(k + at * k_s + d[None, :], mask=(col < keys)[:, None] & (d < size)[None, :], other=0.0)
        vt = tl.load(v + at * v_s + e[None, :], mask=(col < keys)[:, None] & (e < value_size)[None, :], other=0.0)
        s = tl.dot(query, tl.trans(kt), input_precision=PRECISION) * scale
        if EDGE:
            s = _masked(s, mask, row[:, None], col[None, :], length, keys, mask_l, mask_s, MASK, CAUSAL)
        p = tl.exp2(s - total[:, None])
        dp = tl.dot(grad, tl.trans(vt), input_precision=PRECISION)
        ds = p * (dp - offset[:, None])
        dq = tl.dot(ds.to(kt.dtype), kt, dq, input_precision=PRECISION)
    return dq


@triton.jit
def _attention_queries_kernel(
    q, k, v, mask, do, log_sum, delta, dq, heads, group, length, keys, scale, size, value_size,
    q_b, q_h, q_l, k_b, k_h, k_s, v_b, v_h, v_s, g_b, g_h, g_l, mask_b, mask_h, mask_l, mask_s,
    MASK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    D: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """dq of M queries of one head."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    first_row = tl.program_id(0) * M
    row = first_row + tl.arange(0, M)
    at = row.to(tl.int64)[:, None]
    d = tl.arange(0, D)[None, :]
    e = tl.arange(0, E)[None, :]
    inside = (row < length)[:, None] & (d < size)
    query = tl.load(q + batch * q_b + head * q_h + at * q_l + d, mask=inside, other=0.0)
    values_in = (row < length)[:, None] & (e < value_size)
    grad = tl.load(do + batch * g_b + head * g_h + at * g_l + e, mask=values_in, other=0.0)
    line = tl.program_id(1).to(tl.int64) * length
    total = tl.load(log_sum + line + row, mask=row < length, other=float("inf"))
    total = tl.where(total == float("-inf"), float("inf"), total)
    offset = tl.load(delta + line + row, mask=row < length, other=0.0)
    k += batch * k_b + head // group * k_h
    v += batch * v_b + head // group * v_h
    mask += batch * mask_b + head * mask_h
    out = tl.zeros((M, D), tl.float32)
    last = keys
    whole = keys // N * N
    if CAUSAL:
        last = tl.minimum(keys, first_row + M)
        whole = tl.minimum(whole, (first_row + 1) // N * N)
    if MASK != 0:
        whole = 0
    else:
        out = _query_blocks(
            out, query, grad, total, offset, k, v, mask, row, 0, whole, length, keys, scale * LOG2_E, k_s, v_s, mask_l,
            mask_s, size, value_size, False, MASK, CAUSAL, PRECISION, N, D, E,
        )  # fmt: skip
    out = _query_blocks(
        out, query, grad, total, offset, k, v, mask, row, whole, last, length, keys, scale * LOG2_E, k_s, v_s, mask_l,
        mask_s, size, value_size, True, MASK, CAUSAL, PRECISION, N, D, E,
    )  # fmt: skip
    tl.store(dq + (line + at) * size + d, (out * scale).to(dq.dtype.element_ty), mask=inside)


_STRIDES = ("q_b", "q_h", "q_l", "k_b", "k_h", "k_s", "v_b", "v_h", "v_s", "o_b", "o_h", "o_l", "g_b", "g_h", "g_l")
_SIGNATURE = {
    **{name: "*T:16" for name in ("q", "k", "v", "mask", "o", "do", "dq", "dk", "dv")},
    **{"log_sum": "*fp32:16", "delta": "*fp32:16", "scale": "fp32", "heads": "i32", "group": "i32"},
    **{"length": "i32", "keys": "i32", "size": "i32:16", "value_size": "i32:16"},
    **{name: "i32:16" for name in (*_STRIDES, "mask_b", "mask_h", "mask_l")},
    **{"mask_s": "i32:1"},
}


def _variant(
    kernel,
    table: dict,
    size: int,
    label: str,
    shared: int,
    mask: int = 0,
    causal: bool = True,
    bytes: int = 2,
    dots: str = "wgmma",
):
    constants = table[bytes, size].keywords()
    warps, stages = constants.pop("num_warps"), constants.pop("num_stages")
    constants |= {"MASK": mask, "CAUSAL": causal, "PRECISION": "ieee" if bytes == 2 else "tf32", "D": size, "E": size}
    signature = {name: kind for name, kind in _SIGNATURE.items() if name in kernel.arg_names}
    dtypes = ("bfloat16",) if bytes == 2 else ("float32",)
    return Variant(
        kernel, signature, constants, label, warps, stages, 255, shared, dots=dots, wide=(2, 1), dtypes=dtypes
    )


VARIANTS = (
    _variant(_attention_kernel, FORWARD, 64, "64 causal", 72 << 10),
    _variant(_attention_kernel, FORWARD, 128, "128 causal", 132 << 10),
    _variant(_attention_kernel, FORWARD, 128, "128", 132 << 10, causal=False),
    _variant(_attention_kernel, FORWARD, 128, "128 mask", 144 << 10, mask=2, causal=False),
    _variant(_attention_kernel, FORWARD, 256, "256 causal", 160 << 10),
    _variant(_attention_kernel, FORWARD, 64, "64 causal", 100 << 10, bytes=4),
    _variant(_attention_keys_kernel, BACKWARD_KEYS, 64, "64 causal", 112 << 10),
    _variant(_attention_keys_kernel, BACKWARD_KEYS, 128, "128 causal", 160 << 10),
    _variant(_attention_keys_kernel, BACKWARD_KEYS, 256, "256 causal", 112 << 10, dots="mma"),
    _variant(_attention_queries_kernel, BACKWARD_QUERIES, 64, "64 causal", 112 << 10),
    _variant(_attention_queries_kernel, BACKWARD_QUERIES, 128, "128 causal", 160 << 10),
    _variant(_attention_queries_kernel, BACKWARD_QUERIES, 256, "256 causal", 112 << 10, dots="mma"),
    Variant(
        _delta_kernel,
        {name: kind for name, kind in _SIGNATURE.items() if name in _delta_kernel.arg_names},
        {"M": 16, "E": 128}, registers=64, shared=512, wide=(4, 0),
    ),
)  # fmt: skip

# ---- launchers -------------------------------------------------------------------------------------------------------


def _check(
    op: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, precision: str
) -> tuple[int, int]:
    """(elements of D, elements of E): the head sizes rounded up to what a block takes."""
    check_tensors(op, "query", q, key=k, value=v)
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(
            f"{op}: query has shape {tuple(q.shape)}, key {tuple(k.shape)} and value {tuple(v.shape)}; expected "
            "(batch, heads, length, size)"
        )
    batch, heads, length, size = q.shape
    key_heads, keys = k.shape[1:3]
    if key_heads == 0 or heads % key_heads:
        raise ValueError(f"{op}: query has {heads} heads but key {key_heads}; expected a multiple")
    check_shape(op, "key", k, (batch, key_heads, keys, size))
    check_shape(op, "value", v, (batch, key_heads, keys, v.shape[3]))
    if max(size, v.shape[3]) > 256 or min(size, v.shape[3]) == 0:
        raise NotImplementedError(f"{op}: query has heads of {size} and value of {v.shape[3]}; expected 1 to 256")
    if mask is not None:
        check_shape(op, "attn_mask", mask, (batch, heads, length, keys))
        if mask.dtype not in (torch.bool, q.dtype) or mask.device != q.device:
            raise ValueError(
                f"{op}: attn_mask is {mask.dtype} on {mask.device}; expected bool or {q.dtype} on {q.device}"
            )
    if precision not in ("ieee", "tf32"):
        raise ValueError(f"{op}: precision is {precision!r}; expected 'ieee' or 'tf32'")
    return max(16, next_power_of_2(size)), max(16, next_power_of_2(v.shape[3]))


def _dense_rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _chosen(table: dict, q: torch.Tensor, widest: int) -> AttentionConfig:
    return table[q.element_size(), 64 if widest <= 64 else 128 if widest <= 128 else 256]


def _mask_arguments(mask: torch.Tensor | None, q: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...], int]:
    """(memory, strides, MASK); without a mask any pointer does."""
    if mask is None:
        return q, (0, 0, 0, 0), 0
    if mask.dtype == torch.bool:
        return mask.view(torch.int8), mask.stride(), 1
    return mask, mask.stride(), 2


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    precision: str = "ieee",
    config: AttentionConfig | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(o, log_sum): o = softmax(scale q k^T + mask) v, and log2 of the softmax's sums, which backward needs.

    Args:
        q: (batch, heads, length, size), floating, size up to 256, any strides.
        k: (batch, key heads, keys, size); heads are a multiple of key heads, whose neighbours share one.
        v: (batch, key heads, keys, value size).
        mask: (batch, heads, length, keys), bool (true: seen) or added to the scores; expanded dimensions may have
            stride 0.
        causal: query i sees the keys up to i.
        scale: 1 / sqrt(size) if None.
        precision: of float32 products, see matmul.
        config: instead of the table's.

    Returns:
        o (batch, heads, length, value size), row-major; 0 for a query that sees no key. log_sum float32
        (batch, heads, length).
    """
    d, e = _check("attention", q, k, v, mask, precision)
    batch, heads, length, size = q.shape
    keys, value_size = k.shape[2], v.shape[3]
    o = torch.empty((batch, heads, length, value_size), dtype=q.dtype, device=q.device)
    log_sum = torch.empty((batch, heads, length), dtype=torch.float32, device=q.device)
    if log_sum.numel():
        q, k, v = _dense_rows(q), _dense_rows(k), _dense_rows(v)
        memory, strides, kind = _mask_arguments(mask, q)
        config = config or _chosen(FORWARD, q, max(d, e))
        with on_device(q):
            wrap_triton(_attention_kernel)[(cdiv(length, config.queries), batch * heads)](
                *(q, k, v, memory, o, log_sum, heads, heads // k.shape[1], length, keys),
                *(1.0 / math.sqrt(size) if scale is None else scale, size, value_size),
                *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *o.stride()[:3], *strides),
                MASK=kind,
                CAUSAL=causal,
                PRECISION=precision,
                D=d,
                E=e,
                **config.keywords(),
            )
    return o, log_sum


def attention_backward(
    do: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    log_sum: torch.Tensor,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    precision: str = "ieee",
    config: AttentionConfig | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) of `attention`, row-major. The mask has no gradient."""
    d, e = _check("attention_backward", q, k, v, mask, precision)
    check_tensors("attention_backward", "query", q, do=do, o=o)
    check_shape("attention_backward", "do", do, o.shape)
    batch, heads, length, size = q.shape
    key_heads, keys, value_size = k.shape[1], k.shape[2], v.shape[3]
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    dv = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if log_sum.numel() == 0 or keys == 0:
        return dq.zero_(), dk.zero_(), dv.zero_()
    q, k, v, o, do = map(_dense_rows, (q, k, v, o, do))
    delta = torch.empty_like(log_sum)
    memory, strides, kind = _mask_arguments(mask, q)
    by_keys = config or _chosen(BACKWARD_KEYS, q, max(d, e))
    by_queries = config or _chosen(BACKWARD_QUERIES, q, max(d, e))
    sizes = (heads, heads // key_heads, length, keys)
    sizes += (1.0 / math.sqrt(size) if scale is None else scale, size, value_size)
    sizes += (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *do.stride()[:3], *strides)
    flags = {"MASK": kind, "CAUSAL": causal, "PRECISION": precision, "D": d, "E": e}
    with on_device(q):
        wrap_triton(_delta_kernel)[(cdiv(length, 16), batch * heads)](
            o, do, delta, heads, length, value_size, *o.stride()[:3], *do.stride()[:3], M=16, E=e
        )
        wrap_triton(_attention_keys_kernel)[(cdiv(keys, by_keys.keys), batch * key_heads)](
            q, k, v, memory, do, log_sum, delta, dk, dv, *sizes, **flags, **by_keys.keywords()
        )
        wrap_triton(_attention_queries_kernel)[(cdiv(length, by_queries.queries), batch * heads)](
            q, k, v, memory, do, log_sum, delta, dq, *sizes, **flags, **by_queries.keywords()
        )
    return dq, dk, dv
