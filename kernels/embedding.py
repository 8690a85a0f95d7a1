"""Rows of a table by index, and the gradient of the table in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, check_device, check_shape, check_tensors, next_power_of_2, on_device, wrap_triton

_COLUMNS = 1024  # of a block; _ROWS rows of the gradient are added up at once
_ROWS, _ROW_COLUMNS = 8, 256

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _embedding_kernel(index, weight, y, rows, columns, BLOCK: tl.constexpr):
    """y[i, :] = weight[index[i], :]; NaN where the index is no row."""
    i = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(index + i)
    known = tl.where((row >= 0) & (row < rows), columns, 0)
    v = tl.load(weight + row * columns + cols, mask=cols < known, other=float("nan"))
    tl.store(y + i * columns + cols, v, mask=cols < columns)


@triton.jit
def _embedding_backward_kernel(
    row_of, order, end, dy, dweight, rows, columns, padding, BY_FREQUENCY: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Indices sorted: row_of[i] is dy[order[i], :]'s row. The first program of a row adds up all of it, in order."""
    i = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(row_of + i)
    before = tl.load(row_of + i - 1, mask=i > 0, other=-1)
    if (row != before) & (row != padding) & (row >= 0) & (row < rows):
        last = tl.load(end + i).to(tl.int32)
        total = tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(i, last, ROWS):
            j = start + tl.arange(0, ROWS)
            source = tl.load(order + j, mask=j < last, other=0)
            mask = (j < last)[:, None] & (cols < columns)[None, :]
            total += tl.load(dy + source[:, None] * columns + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        out = tl.sum(total, 0)
        if BY_FREQUENCY:
            out = out / (last - i)
        tl.store(dweight + row * columns + cols, out.to(dweight.dtype.element_ty), mask=cols < columns)


VARIANTS = (
    Variant(
        _embedding_kernel,
        {"index": "*i64:16", "weight": "*T:16", "y": "*T:16", "rows": "i32", "columns": "i32:16"},
        {"BLOCK": _COLUMNS},
        registers=40,
        wide=(1, 1),
    ),
    Variant(
        _embedding_backward_kernel,
        {
            **{"row_of": "*i64:16", "order": "*i64:16", "end": "*i64:16", "dy": "*T:16", "dweight": "*T:16"},
            **{"rows": "i32", "columns": "i32:16", "padding": "i32"},
        },
        {"BY_FREQUENCY": False, "ROWS": _ROWS, "BLOCK": _ROW_COLUMNS},
        registers=80,
        shared=8192,
        wide=(2, 0),
    ),
)

# ---- launchers -------------------------------------------------------------------------------------------------------


def embedding(index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """y[..., :] = weight[index[...], :].

    Args:
        index: int64 or int32, any shape. One that is no row of the table gives NaN.
        weight: (rows, columns), floating.
    """
    check_tensors("embedding", "weight", weight)
    check_device("embedding", "weight", weight, index=index)
    if weight.ndim != 2 or index.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"embedding: weight has shape {tuple(weight.shape)} and index dtype {index.dtype}; expected (rows, "
            "columns) and int64 or int32"
        )
    rows, columns = weight.shape
    y = torch.empty((*index.shape, columns), dtype=weight.dtype, device=weight.device)
    if y.numel():
        index, weight = index.contiguous().long(), weight.contiguous()
        block = min(_COLUMNS, next_power_of_2(columns))
        with on_device(weight):
            wrap_triton(_embedding_kernel)[(index.numel(), cdiv(columns, block))](
                index, weight, y, rows, columns, BLOCK=block, num_warps=max(1, min(4, block // 256))
            )
    return y


def embedding_backward(
    dy: torch.Tensor, index: torch.Tensor, rows: int, padding_idx: int | None = None, scale_grad_by_freq: bool = False
) -> torch.Tensor:
    """dweight[r, :] = sum of dy[i, :] over the i with index[i] = r, in the order of i; 0 for padding_idx.

    With scale_grad_by_freq divided by how many these are.
    """
    check_tensors("embedding_backward", "dy", dy)
    check_device("embedding_backward", "dy", dy, index=index)
    columns = dy.shape[-1]
    check_shape("embedding_backward", "dy", dy, (*index.shape, columns))
    dweight = torch.zeros((rows, columns), dtype=dy.dtype, device=dy.device)
    if dy.numel():
        row_of, order = torch.sort(index.reshape(-1).long(), stable=True)
        end = torch.searchsorted(row_of, row_of, right=True)
        with on_device(dy):
            wrap_triton(_embedding_backward_kernel)[(row_of.numel(), cdiv(columns, _ROW_COLUMNS))](
                *(row_of, order, end, dy.contiguous(), dweight, rows, columns),
                -1 if padding_idx is None else padding_idx % rows,
                BY_FREQUENCY=scale_grad_by_freq,
                ROWS=_ROWS,
                BLOCK=_ROW_COLUMNS,
            )
    return dweight
