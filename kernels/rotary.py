"""Rotary position embedding."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, check_shape, check_tensors, next_power_of_2, on_device, wrap_triton

_HEADS = 8  # that share a load of cos and sin

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _rotary_kernel(
    x, cos, sin, y, heads, length, half, rest, x_b, x_h, x_s, y_b, y_h, y_s,
    INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr, HEADS: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr,
    REST: tl.constexpr,
):  # fmt: skip
    """(u, v) -> (u cos - v sin, v cos + u sin) for `half` pairs of a head; `rest` elements behind them are copied."""
    s = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    pair = tl.arange(0, HALF)[None, :]
    inside = (s < length) & (pair < half)
    c = tl.load(cos + s * half + pair, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(sin + s * half + pair, mask=inside, other=0.0).to(tl.float32)
    if INVERSE:
        t = -t
    x += tl.program_id(2).to(tl.int64) * x_b
    y += tl.program_id(2).to(tl.int64) * y_b
    first = tl.program_id(1) * HEADS
    for head in range(first, tl.minimum(first + HEADS, heads)):
        source = x + tl.cast(head, tl.int64) * x_h + s.to(tl.int64) * x_s
        to = y + tl.cast(head, tl.int64) * y_h + s.to(tl.int64) * y_s
        if INTERLEAVED:  # one contiguous access, taken apart in registers
            both = tl.arange(0, 2 * HALF)[None, :]
            mask = (s < length) & (both < 2 * half)
            w = tl.load(source + both, mask=mask, other=0.0).to(tl.float32)
            u, v = tl.split(tl.reshape(w, (ROWS, HALF, 2)))
            out = tl.reshape(tl.join(u * c - v * t, v * c + u * t), (ROWS, 2 * HALF))
            tl.store(to + both, out.to(y.dtype.element_ty), mask=mask)
        else:
            u = tl.load(source + pair, mask=inside, other=0.0).to(tl.float32)
            v = tl.load(source + half + pair, mask=inside, other=0.0).to(tl.float32)
            tl.store(to + pair, (u * c - v * t).to(y.dtype.element_ty), mask=inside)
            tl.store(to + half + pair, (v * c + u * t).to(y.dtype.element_ty), mask=inside)
        if REST > 0:
            behind = tl.arange(0, REST)[None, :]
            mask = (s < length) & (behind < rest)
            tl.store(to + 2 * half + behind, tl.load(source + 2 * half + behind, mask=mask), mask=mask)


_SIGNATURE = {
    **{"x": "*T:16", "cos": "*fp32:16", "sin": "*fp32:16", "y": "*T:16", "heads": "i32", "length": "i32"},
    **{name: "i32:16" for name in ("half", "rest", "x_b", "x_h", "x_s", "y_b", "y_h", "y_s")},
}
_LAUNCH = {"INVERSE": False, "HEADS": _HEADS, "ROWS": 16, "HALF": 64, "REST": 0}
VARIANTS = (
    Variant(_rotary_kernel, _SIGNATURE, {**_LAUNCH, "INTERLEAVED": False}, "halves", 4, 2, 64, 0, wide=(6, 2)),
    Variant(_rotary_kernel, _SIGNATURE, {**_LAUNCH, "INTERLEAVED": True}, "interleaved", 4, 2, 80, 8192, wide=(4, 2)),
)

# ---- launchers -------------------------------------------------------------------------------------------------------


def rotary(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool = False, inverse: bool = False
) -> torch.Tensor:
    """Rotates pairs of elements of each head by the angle of their position. Su et al. 2021, arXiv:2104.09864.

    Args:
        x: (batch, heads, length, size), floating; strides are free but for contiguous heads.
        cos, sin: (length, pairs) of the angles, pairs <= size / 2, any floating dtype. The rest of x is copied.
        interleaved: pairs are (0, 1), (2, 3), ...; else (0, pairs), (1, pairs + 1), ...
        inverse: rotates back, which is the gradient: dx = rotary(dy, cos, sin, interleaved, inverse=True).

    Returns:
        (batch, heads, length, size), row-major.
    """
    check_tensors("rotary", "x", x)
    if x.ndim != 4:
        raise ValueError(f"rotary: x has shape {tuple(x.shape)}; expected (batch, heads, length, size)")
    batch, heads, length, size = x.shape
    if cos.ndim != 2 or cos.shape[0] != length or 2 * cos.shape[1] > size or cos.device != x.device:
        raise ValueError(
            f"rotary: cos has shape {tuple(cos.shape)} on {cos.device}; expected ({length}, up to {size // 2}) on "
            f"{x.device}"
        )
    check_shape("rotary", "sin", sin, cos.shape)
    if x.stride(-1) != 1:
        x = x.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    half = cos.shape[1]
    if y.numel():
        cos, sin = cos.contiguous(), sin.contiguous()
        block, rest = next_power_of_2(half), size - 2 * half
        rows = max(1, 1024 // block)
        with on_device(x):
            wrap_triton(_rotary_kernel)[(cdiv(length, rows), cdiv(heads, _HEADS), batch)](
                *(x, cos, sin, y, heads, length, half, rest, *x.stride()[:3], *y.stride()[:3]),
                INTERLEAVED=interleaved,
                INVERSE=inverse,
                HEADS=_HEADS,
                ROWS=rows,
                HALF=block,
                REST=next_power_of_2(rest) if rest else 0,
            )
    return y
