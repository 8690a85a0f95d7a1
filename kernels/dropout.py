"""Dropout with the counters of csrc/ops/dropout_kernel.cpp: the same mask on every device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, check_tensors, dense, like, on_device, wrap_triton

# Elements in memory order are in groups of 64. Counter 16 g + j gives words to the elements 64 g + 16 w + j, w < 4.
_GROUP = 64
_COUNTERS = 1024  # per block of 4 warps: 8 per thread, so that each word meets 8 neighbours, 16 bytes of float16

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _apply(x, y, places, word, threshold, scale, n, MASKED: tl.constexpr):
    mask = places < n if MASKED else None
    v = tl.load(x + places, mask=mask).to(tl.float32)
    # A product also where dropped: NaN stays NaN, as in torch.
    v = v * tl.where(word >= threshold, scale, 0.0)
    tl.store(y + places, v.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _apply_words(x, y, places, w0, w1, w2, w3, threshold, scale, n, MASKED: tl.constexpr):
    _apply(x, y, places, w0, threshold, scale, n, MASKED)
    _apply(x, y, places + 16, w1, threshold, scale, n, MASKED)
    _apply(x, y, places + 32, w2, threshold, scale, n, MASKED)
    _apply(x, y, places + 48, w3, threshold, scale, n, MASKED)


@triton.jit
def _dropout_kernel(x, y, n, key, threshold, scale, COUNTERS: tl.constexpr):
    """key: two int64, seed and offset. threshold: p 2^32 in the low 32 bits of an int64."""
    seed = tl.load(key)
    offset = tl.load(key + 1)
    start = tl.program_id(0).to(tl.int64)
    # 16 columns, so that it is known which elements are neighbours
    group = tl.arange(0, COUNTERS // 16)[:, None]
    lane = tl.arange(0, 16)[None, :]
    counter = start * COUNTERS + group * 16 + lane
    c0 = (counter & 0xFFFFFFFF).to(tl.uint32)
    c1 = (counter >> 32).to(tl.uint32)
    zero = tl.zeros((COUNTERS // 16, 16), tl.uint32)
    c2 = (offset & 0xFFFFFFFF).to(tl.uint32) + zero
    c3 = ((offset >> 32) & 0xFFFFFFFF).to(tl.uint32) + zero
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, c2, c3)
    limit = (tl.cast(threshold, tl.int64) & 0xFFFFFFFF).to(tl.uint32)
    first = start * (COUNTERS * 4)
    places = group * 64 + lane
    if first + COUNTERS * 4 <= n:
        _apply_words(x + first, y + first, places, w0, w1, w2, w3, limit, scale, n - first, False)
    else:
        _apply_words(x + first, y + first, places, w0, w1, w2, w3, limit, scale, n - first, True)


VARIANTS = (
    Variant(
        _dropout_kernel,
        {"x": "*T:16", "y": "*T:16", "n": "i32", "key": "*i64:16", "threshold": "i64", "scale": "fp32"},
        {"COUNTERS": _COUNTERS},
        registers=64,
        shared=4096,  # the masked block changes its layout
        wide=(4, 4),
    ),
)

# ---- launchers -------------------------------------------------------------------------------------------------------


def dropout(x: torch.Tensor, p: float, key: torch.Tensor) -> torch.Tensor:
    """y = x m / (1 - p) with m_i = 0 with probability p and 1 otherwise; its own gradient with the same key.

    m_i comes from Philox4x32-10 (Salmon et al. 2011) at the counter of i, which counts in memory order where x is
    row-major or channels_last, else in row-major order.

    Args:
        x: floating, any shape.
        p: probability of an element to be dropped.
        key: int64 (2,) on the device of x: seed and offset of the generator.

    Raises:
        ValueError: p is outside of [0, 1], or the key has another shape or dtype.
    """
    check_tensors("dropout", "x", x)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p is {p}; expected a probability between 0 and 1")
    if key.shape != (2,) or key.dtype != torch.int64 or key.device != x.device:
        raise ValueError(
            f"dropout: key is {key.dtype} {tuple(key.shape)} on {key.device}; expected int64 (2,) on {x.device}"
        )
    x = dense(x)
    y = torch.empty_like(x)
    n = x.numel()
    if n:
        # p = 1 drops also the largest word: its scale is zero.
        threshold, scale = min(round(p * 2**32), 2**32 - 1), 1.0 / (1.0 - p) if p < 1 else 0.0
        with on_device(x):
            wrap_triton(_dropout_kernel)[(cdiv(n, 4 * _COUNTERS),)](
                x, y, n, key.contiguous(), threshold, scale, COUNTERS=_COUNTERS
            )
    return y


def dropout_backward(dy: torch.Tensor, p: float, key: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """dx = dy m / (1 - p), with elements counted in the memory order of `pattern`, a tensor laid out as x was."""
    return dropout(like(dy, dense(pattern)), p, key)
