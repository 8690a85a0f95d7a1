"""softmax and log_softmax over one dimension, forward and backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, check_shape, check_tensors, next_power_of_2, on_device, wrap_triton

# Rows up to this many elements stay in registers; longer ones are read twice, the second time mostly from L2.
_ROW_BLOCK = 8192
_TILE = 2048  # elements of a block of short rows: 4 warps, 16 per thread

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _softmax_rows_kernel(x, y, rows, columns, LOG: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """ROWS whole rows per program: each is read once and written once."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (cols < columns)
    v = tl.load(x + row * columns + cols, mask=mask, other=float("-inf")).to(tl.float32)
    top = tl.max(v, 1)[:, None]
    # NaN for a row of -inf, as in torch
    e = tl.exp(v - top)
    total = tl.sum(e, 1)[:, None]
    out = v - top - tl.log(total) if LOG else e / total
    tl.store(y + row * columns + cols, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _softmax_rows_backward_kernel(y, dy, dx, rows, columns, LOG: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (cols < columns)
    p = tl.load(y + row * columns + cols, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(dy + row * columns + cols, mask=mask, other=0.0).to(tl.float32)
    if LOG:
        out = g - tl.exp(p) * tl.sum(g, 1)[:, None]
    else:
        out = p * (g - tl.sum(p * g, 1)[:, None])
    tl.store(dx + row * columns + cols, out.to(dx.dtype.element_ty), mask=mask)


@triton.jit
def _softmax_strided_kernel(
    x, y, columns, inner, LOG: tl.constexpr, BLOCK: tl.constexpr, INNER: tl.constexpr
):  # fmt: skip
    """x as (outer, columns, inner), over columns: INNER neighbours per program, BLOCK of their columns at a time.

    Online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867.
    """
    base = tl.program_id(0).to(tl.int64) * columns * inner
    lane = tl.program_id(1) * INNER + tl.arange(0, INNER)[None, :]
    top = tl.full((INNER,), float("-inf"), tl.float32)
    total = tl.zeros((INNER,), tl.float32)
    for start in range(0, columns, BLOCK):
        col = start + tl.arange(0, BLOCK)[:, None]
        mask = (col < columns) & (lane < inner)
        v = tl.load(x + base + col.to(tl.int64) * inner + lane, mask=mask, other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, tl.max(v, 0))
        shift = tl.where(new == float("-inf"), 0.0, new)  # nothing but -inf so far: keep the sum 0 rather than NaN
        # max() drops NaN, the sum does not.
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(v - shift[None, :]), 0)
        top = new
    # a column of nothing but -inf: total is 0, and both results NaN, as in torch
    for start in range(0, columns, BLOCK):
        col = start + tl.arange(0, BLOCK)[:, None]
        mask = (col < columns) & (lane < inner)
        at = base + col.to(tl.int64) * inner + lane
        v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - top[None, :]
        out = v - tl.log(total)[None, :] if LOG else tl.exp(v) / total[None, :]
        tl.store(y + at, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _softmax_strided_backward_kernel(
    y, dy, dx, columns, inner, LOG: tl.constexpr, BLOCK: tl.constexpr, INNER: tl.constexpr
):  # fmt: skip
    base = tl.program_id(0).to(tl.int64) * columns * inner
    lane = tl.program_id(1) * INNER + tl.arange(0, INNER)[None, :]
    total = tl.zeros((INNER,), tl.float32)
    for start in range(0, columns, BLOCK):
        col = start + tl.arange(0, BLOCK)[:, None]
        mask = (col < columns) & (lane < inner)
        at = base + col.to(tl.int64) * inner + lane
        g = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32)
        if not LOG:
            g = g * tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(g, 0)
    for start in range(0, columns, BLOCK):
        col = start + tl.arange(0, BLOCK)[:, None]
        mask = (col < columns) & (lane < inner)
        at = base + col.to(tl.int64) * inner + lane
        p = tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32)
        out = g - tl.exp(p) * total[None, :] if LOG else p * (g - total[None, :])
        tl.store(dx + at, out.to(dx.dtype.element_ty), mask=mask)


_ROWS = {"x": "*T:16", "y": "*T:16", "rows": "i32", "columns": "i32:16"}
_STRIDED = {"columns": "i32:16", "inner": "i32:16"}
VARIANTS = (
    Variant(_softmax_rows_kernel, _ROWS, {"LOG": False, "ROWS": 2, "BLOCK": 1024}, "1024", 4, 2, 64, 256, wide=(2, 2)),
    Variant(_softmax_rows_kernel, _ROWS, {"LOG": True, "ROWS": 1, "BLOCK": 8192}, "8192", 8, 2, 96, 256, wide=(4, 4)),
    Variant(
        _softmax_rows_backward_kernel,
        {"y": "*T:16", "dy": "*T:16", "dx": "*T:16", "rows": "i32", "columns": "i32:16"},
        {"LOG": False, "ROWS": 1, "BLOCK": 8192},
        "8192", 8, 2, 128, 256, wide=(8, 4),
    ),  # fmt: skip
    Variant(
        _softmax_strided_kernel, {"x": "*T:16", "y": "*T:16", **_STRIDED}, {"LOG": False, "BLOCK": 32, "INNER": 64},
        "inner", 4, 2, 96, 4096, wide=(2, 1),
    ),
    Variant(
        _softmax_strided_backward_kernel,
        {"y": "*T:16", "dy": "*T:16", "dx": "*T:16", **_STRIDED},
        {"LOG": True, "BLOCK": 32, "INNER": 64},
        "inner", 4, 2, 96, 4096, wide=(2, 1),
    ),
)  # fmt: skip

# ---- launchers -------------------------------------------------------------------------------------------------------


def _split(op: str, x: torch.Tensor, dim: int) -> tuple[int, int, int]:
    """(outer, columns, inner) of a contiguous tensor around dim."""
    if not -x.ndim <= dim < x.ndim:
        raise IndexError(
            f"{op}: dim is {dim} but the input has {x.ndim} dimensions; expected {-x.ndim} to {x.ndim - 1}"
        )
    dim %= x.ndim
    outer = inner = 1
    for size in x.shape[:dim]:
        outer *= size
    for size in x.shape[dim + 1 :]:
        inner *= size
    return outer, x.shape[dim], inner


def _row_launch(columns: int) -> tuple[int, int, int]:
    """(rows per block, columns of the block, warps): 16 elements per thread or more, 32 at most."""
    block = next_power_of_2(columns)
    return max(1, _TILE // block), block, 4 if block <= 4096 else 8


def softmax(x: torch.Tensor, dim: int = -1, log: bool = False) -> torch.Tensor:
    """y_i = exp(x_i - max x) / sum_j exp(x_j - max x) over dim; with `log` its logarithm.

    Args:
        x: floating, at least one dimension. The result is contiguous.
    """
    check_tensors("softmax", "x", x)
    outer, columns, inner = _split("softmax", x, dim)
    x = x.contiguous()
    y = torch.empty_like(x)
    if y.numel():
        with on_device(x):
            if inner == 1 and columns <= _ROW_BLOCK:
                rows, block, warps = _row_launch(columns)
                wrap_triton(_softmax_rows_kernel)[(cdiv(outer, rows),)](
                    x, y, outer, columns, LOG=log, ROWS=rows, BLOCK=block, num_warps=warps
                )
            else:
                wide, deep = _strided_tile(columns, inner)
                wrap_triton(_softmax_strided_kernel)[(outer, cdiv(inner, wide))](
                    x, y, columns, inner, LOG=log, BLOCK=deep, INNER=wide
                )
    return y


def softmax_backward(y: torch.Tensor, dy: torch.Tensor, dim: int = -1, log: bool = False) -> torch.Tensor:
    """dx = y (dy - sum_j y_j dy_j); with `log`, for which y is the logarithm, dx = dy - exp(y) sum_j dy_j."""
    check_tensors("softmax_backward", "y", y, dy=dy)
    check_shape("softmax_backward", "dy", dy, y.shape)
    outer, columns, inner = _split("softmax_backward", y, dim)
    y, dy = y.contiguous(), dy.contiguous()
    dx = torch.empty_like(y)
    if dx.numel():
        with on_device(y):
            if inner == 1 and columns <= _ROW_BLOCK:
                rows, block, warps = _row_launch(columns)
                wrap_triton(_softmax_rows_backward_kernel)[(cdiv(outer, rows),)](
                    y, dy, dx, outer, columns, LOG=log, ROWS=rows, BLOCK=block, num_warps=warps
                )
            else:
                wide, deep = _strided_tile(columns, inner)
                wrap_triton(_softmax_strided_backward_kernel)[(outer, cdiv(inner, wide))](
                    y, dy, dx, columns, inner, LOG=log, BLOCK=deep, INNER=wide
                )
    return dx


def _strided_tile(columns: int, inner: int) -> tuple[int, int]:
    """(neighbours, columns) of a block: 2048 elements, neighbours first."""
    wide = min(64, next_power_of_2(inner))
    return wide, min(_TILE // wide, next_power_of_2(columns))
