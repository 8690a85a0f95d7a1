"""Sums over rows in a fixed order: bias gradients, and the last step of sums that several programs began."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, on_device, wrap_triton

_ROWS, _COLUMNS = 32, 128  # of the block that a program adds up before it sums over the block's rows
_CHUNKS = 64  # programs that share a column at most

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _sum_rows_kernel(x, out, rows, columns, x_row, chunk, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out[p, c] = sum of x[r, c] over the rows r from p chunk up to (p + 1) chunk."""
    cols = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(1)
    first = part * chunk
    last = tl.minimum(first + chunk, rows)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < last)[:, None] & (cols < columns)[None, :]
        total += tl.load(x + row.to(tl.int64)[:, None] * x_row + cols[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out + part.to(tl.int64) * columns + cols, tl.sum(total, 0).to(out.dtype.element_ty), mask=cols < columns)


VARIANTS = (
    Variant(
        _sum_rows_kernel,
        {"x": "*T:16", "out": "*fp32:16", "rows": "i32", "columns": "i32:16", "x_row": "i32:16", "chunk": "i32:16"},
        {"ROWS": _ROWS, "COLUMNS": _COLUMNS},
        registers=96,
        shared=8192,
        wide=(2, 0),
    ),
)

# ---- launchers -------------------------------------------------------------------------------------------------------


def sum_rows(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """out[c] = sum_r x[r, c] in float32, in an order fixed by the shape. x: (rows, columns), rows contiguous."""
    rows, columns = x.shape
    chunk = max(256, cdiv(cdiv(rows, _CHUNKS), _ROWS) * _ROWS)
    parts = cdiv(rows, chunk)
    if parts > 1:
        partial = torch.empty((parts, columns), dtype=torch.float32, device=x.device)
        _launch(x, partial, chunk)
        x, rows, chunk = partial, parts, max(256, parts)
    out = torch.empty((1, columns), dtype=dtype, device=x.device)
    if rows == 0:
        out.zero_()
    else:
        _launch(x, out, chunk)
    return out[0]


def _launch(x: torch.Tensor, out: torch.Tensor, chunk: int) -> None:
    rows, columns = x.shape
    if columns:
        with on_device(x):
            wrap_triton(_sum_rows_kernel)[(cdiv(columns, _COLUMNS), out.shape[0])](
                x, out, rows, columns, x.stride(0), chunk, ROWS=_ROWS, COLUMNS=_COLUMNS
            )
