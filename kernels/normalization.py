"""layer_norm and rms_norm over the last dimension, with an addition before, forward and backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, check_shape, check_tensors, next_power_of_2, on_device, rows_of, wrap_triton
from .reduction import sum_rows

_ROW_BLOCK = 16384  # rows up to this many elements stay in registers
_ROW_BLOCK_BACKWARD = 8192  # the same with the sums of the weight's gradient, which would spill beyond
_LONG_BLOCK = 4096  # longer ones go by such blocks
_TILE = 2048  # elements of a block of short rows
# Programs that share the sums of the weight's gradient: two per multiprocessor of an H100. A constant, not the number
# that the card has, so that the sums have the same bits everywhere.
_PROGRAMS = 264

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _norm_kernel(
    x, residual, weight, bias, y, z, mean, rstd, rows, columns, x_row, residual_row, eps,
    RMS: tl.constexpr, RESIDUAL: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """z = x + residual, y = (z - mean z) / sqrt(var z + eps) weight + bias; the mean counts as 0 with RMS."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = r[:, None]
    cols = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (cols < columns)
    v = tl.load(x + row * x_row + cols, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        v += tl.load(residual + row * residual_row + cols, mask=mask, other=0.0).to(tl.float32)
        stored = v.to(z.dtype.element_ty)
        tl.store(z + row * columns + cols, stored, mask=mask)
        v = stored.to(tl.float32)  # statistics of what backward will read
    if RMS:
        centred = v
    else:
        m = tl.sum(v, 1) / columns
        tl.store(mean + r, m, mask=r < rows)
        centred = tl.where(mask, v - m[:, None], 0.0)
    s = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / columns + eps)
    tl.store(rstd + r, s, mask=r < rows)
    out = centred * s[:, None]
    if WEIGHT:
        out = out * tl.load(weight + cols, mask=cols < columns, other=0.0).to(tl.float32)
    if BIAS:
        out = out + tl.load(bias + cols, mask=cols < columns, other=0.0).to(tl.float32)
    tl.store(y + row * columns + cols, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _norm_backward_kernel(
    z, dy, dz, weight, mean, rstd, dx, dweight, dbias, rows, columns, chunk,
    RMS: tl.constexpr, DZ: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With n = (z - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - n mean(g n)) + dz, without mean(g) for RMS.

    A program does `chunk` rows one after the other and writes its sums of dy n and dy: one row each of dweight, dbias.
    """
    part = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    cols = c[None, :]
    if WEIGHT:
        w = tl.load(weight + cols, mask=cols < columns, other=0.0).to(tl.float32)
        total_weight = tl.zeros((ROWS, BLOCK), tl.float32)
    if BIAS:
        total_bias = tl.zeros((ROWS, BLOCK), tl.float32)
    first = part * chunk
    last = tl.minimum(first + chunk, rows)
    for start in range(first, last, ROWS):
        r = start + tl.arange(0, ROWS)
        at = r.to(tl.int64)[:, None] * columns + cols
        mask = (r < last)[:, None] & (cols < columns)
        n = tl.load(z + at, mask=mask, other=0.0).to(tl.float32)
        d = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32)
        if not RMS:
            n = tl.where(mask, n - tl.load(mean + r, mask=r < last, other=0.0)[:, None], 0.0)
        s = tl.load(rstd + r, mask=r < last, other=0.0)[:, None]
        n = n * s
        g = d
        if WEIGHT:
            total_weight += d * n
            g = d * w
        if BIAS:
            total_bias += d
        out = g - n * (tl.sum(g * n, 1) / columns)[:, None]
        if not RMS:
            out = out - (tl.sum(g, 1) / columns)[:, None]
        out = out * s
        if DZ:
            out += tl.load(dz + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + at, out.to(dx.dtype.element_ty), mask=mask)
    if WEIGHT:
        tl.store(dweight + part.to(tl.int64) * columns + c, tl.sum(total_weight, 0), mask=c < columns)
    if BIAS:
        tl.store(dbias + part.to(tl.int64) * columns + c, tl.sum(total_bias, 0), mask=c < columns)


@triton.jit
def _norm_long_kernel(
    x, residual, weight, bias, y, z, mean, rstd, columns, x_row, residual_row, eps,
    RMS: tl.constexpr, RESIDUAL: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """_norm_kernel for one row that does not fit the registers: three readings, the last ones mostly from L2."""
    row = tl.program_id(0).to(tl.int64)
    x += row * x_row
    residual += row * residual_row
    total = tl.zeros((BLOCK,), tl.float32)
    if not RMS:
        for start in range(0, columns, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            v = tl.load(x + cols, mask=cols < columns, other=0.0).to(tl.float32)
            if RESIDUAL:
                v += tl.load(residual + cols, mask=cols < columns, other=0.0).to(tl.float32)
                v = v.to(z.dtype.element_ty).to(tl.float32)
            total += v
    m = tl.sum(total, 0) / columns
    square = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        v = tl.load(x + cols, mask=cols < columns, other=0.0).to(tl.float32)
        if RESIDUAL:
            v += tl.load(residual + cols, mask=cols < columns, other=0.0).to(tl.float32)
            v = v.to(z.dtype.element_ty).to(tl.float32)
        v = tl.where(cols < columns, v - m, 0.0)
        square += v * v
    s = 1.0 / tl.sqrt(tl.sum(square, 0) / columns + eps)
    if not RMS:
        tl.store(mean + row, m)
    tl.store(rstd + row, s)
    for start in range(0, columns, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        mask = cols < columns
        v = tl.load(x + cols, mask=mask, other=0.0).to(tl.float32)
        if RESIDUAL:
            v += tl.load(residual + cols, mask=mask, other=0.0).to(tl.float32)
            stored = v.to(z.dtype.element_ty)
            tl.store(z + row * columns + cols, stored, mask=mask)
            v = stored.to(tl.float32)
        out = (v - m) * s
        if WEIGHT:
            out = out * tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
        if BIAS:
            out = out + tl.load(bias + cols, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + row * columns + cols, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _norm_long_backward_kernel(
    z, dy, dz, weight, mean, rstd, dx, columns,
    RMS: tl.constexpr, DZ: tl.constexpr, WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx of one long row; see _norm_backward_kernel."""
    row = tl.program_id(0).to(tl.int64)
    m = 0.0
    if not RMS:
        m = tl.load(mean + row)
    s = tl.load(rstd + row)
    along = tl.zeros((BLOCK,), tl.float32)
    plain = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        mask = cols < columns
        n = (tl.load(z + row * columns + cols, mask=mask, other=0.0).to(tl.float32) - m) * s
        g = tl.load(dy + row * columns + cols, mask=mask, other=0.0).to(tl.float32)
        if WEIGHT:
            g = g * tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
        along += g * n
        plain += g
    mean_along = tl.sum(along, 0) / columns
    mean_plain = 0.0 if RMS else tl.sum(plain, 0) / columns
    for start in range(0, columns, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        mask = cols < columns
        n = (tl.load(z + row * columns + cols, mask=mask, other=0.0).to(tl.float32) - m) * s
        g = tl.load(dy + row * columns + cols, mask=mask, other=0.0).to(tl.float32)
        if WEIGHT:
            g = g * tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
        out = (g - mean_plain - n * mean_along) * s
        if DZ:
            out += tl.load(dz + row * columns + cols, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + row * columns + cols, out.to(dx.dtype.element_ty), mask=mask)


@triton.jit
def _norm_long_weight_kernel(
    z, dy, mean, rstd, dweight, dbias, rows, columns, chunk,
    RMS: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of dy n and dy over `chunk` rows, for COLUMNS columns of long rows."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    cols = c[None, :]
    part = tl.program_id(1)
    first = part * chunk
    last = tl.minimum(first + chunk, rows)
    total_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    total_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, last, ROWS):
        r = start + tl.arange(0, ROWS)
        at = r.to(tl.int64)[:, None] * columns + cols
        mask = (r < last)[:, None] & (cols < columns)
        n = tl.load(z + at, mask=mask, other=0.0).to(tl.float32)
        d = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32)
        if not RMS:
            n = n - tl.load(mean + r, mask=r < last, other=0.0)[:, None]
        total_weight += d * n * tl.load(rstd + r, mask=r < last, other=0.0)[:, None]
        total_bias += d
    tl.store(dweight + part.to(tl.int64) * columns + c, tl.sum(total_weight, 0), mask=c < columns)
    if BIAS:
        tl.store(dbias + part.to(tl.int64) * columns + c, tl.sum(total_bias, 0), mask=c < columns)


_FORWARD = {
    **{name: "*T:16" for name in ("x", "residual", "weight", "bias", "y", "z")},
    **{"mean": "*fp32:16", "rstd": "*fp32:16", "rows": "i32", "columns": "i32:16", "x_row": "i32:16"},
    **{"residual_row": "i32:16", "eps": "fp32"},
}
_BACKWARD = {
    **{name: "*T:16" for name in ("z", "dy", "dz", "weight", "dx")},
    **{name: "*fp32:16" for name in ("mean", "rstd", "dweight", "dbias")},
    **{"rows": "i32", "columns": "i32:16", "chunk": "i32"},
}
_LAYER = {"RMS": False, "RESIDUAL": False, "WEIGHT": True, "BIAS": True}
_RMS = {"RMS": True, "RESIDUAL": True, "WEIGHT": True, "BIAS": False}
_LAYER_BACKWARD = {"RMS": False, "DZ": False, "WEIGHT": True, "BIAS": True}
_RMS_BACKWARD = {"RMS": True, "DZ": True, "WEIGHT": True, "BIAS": False}
# The row's launch decides how many elements a thread holds; two blocks of a long row fit on a multiprocessor.
VARIANTS = (
    Variant(_norm_kernel, _FORWARD, {**_LAYER, "ROWS": 2, "BLOCK": 1024}, "layer 1024", 4, 2, 96, 512, wide=(4, 2)),
    Variant(_norm_kernel, _FORWARD, {**_RMS, "ROWS": 1, "BLOCK": 4096}, "rms 4096", 8, 2, 80, 512, wide=(6, 4)),
    Variant(_norm_kernel, _FORWARD, {**_LAYER, "ROWS": 1, "BLOCK": 16384}, "layer 16384", 16, 2, 96, 512, wide=(4, 2)),
    Variant(
        _norm_backward_kernel, _BACKWARD, {**_LAYER_BACKWARD, "ROWS": 2, "BLOCK": 1024}, "layer 1024",
        4, 2, 160, 20480, wide=(4, 2),
    ),
    Variant(
        _norm_backward_kernel, _BACKWARD, {**_RMS_BACKWARD, "ROWS": 1, "BLOCK": 4096}, "rms 4096",
        8, 2, 128, 32768, wide=(6, 2),
    ),
    Variant(
        _norm_backward_kernel, _BACKWARD, {**_LAYER_BACKWARD, "ROWS": 1, "BLOCK": 8192}, "layer 8192",
        16, 2, 128, 65536, wide=(4, 2),
    ),
    Variant(_norm_long_kernel, _FORWARD, {**_LAYER, "BLOCK": _LONG_BLOCK}, "long", 8, 2, 64, 512, wide=(6, 2)),
    Variant(
        _norm_long_backward_kernel, _BACKWARD, {"RMS": True, "DZ": True, "WEIGHT": True, "BLOCK": _LONG_BLOCK}, "long",
        8, 2, 80, 512, wide=(8, 2),
    ),
    Variant(
        _norm_long_weight_kernel, _BACKWARD, {"RMS": False, "BIAS": True, "ROWS": 16, "COLUMNS": 128}, "long",
        4, 2, 128, 16384, wide=(4, 0),
    ),
)  # fmt: skip

# ---- launchers -------------------------------------------------------------------------------------------------------


def _row_launch(columns: int) -> tuple[int, int, int]:
    """(rows per block, columns of the block, warps): 16 elements per thread or 32."""
    block = next_power_of_2(columns)
    return max(1, _TILE // block), block, 4 if block <= 2048 else 8 if block <= 4096 else 16


def _check(op: str, x: torch.Tensor, **vectors: torch.Tensor | None) -> int:
    if x.ndim == 0:
        raise ValueError(f"{op}: x has no dimension; expected (..., columns)")
    check_tensors(op, "x", x, **vectors)
    for name, vector in vectors.items():
        check_shape(op, name, vector, (x.shape[-1],))
    return x.shape[-1]


def norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    rms: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y, z, mean, rstd): z = x + residual (x without one), y its layer_norm or, with `rms`, its rms_norm.

    y = (z - mean) rstd weight + bias over the last dimension, rstd = 1 / sqrt(var z + eps); for rms_norm the mean
    counts as 0. Ba et al. 2016, arXiv:1607.06450; Zhang & Sennrich 2019, arXiv:1910.07467.

    Args:
        x, residual: (..., columns), floating.
        weight, bias: (columns,), or None for ones and zeros.
    """
    op = "rms_norm" if rms else "layer_norm"
    columns = _check(op, x, weight=weight, bias=bias)
    check_tensors(op, "x", x, residual=residual)
    check_shape(op, "residual", residual, x.shape)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    z = x if residual is None else torch.empty_like(y)
    rows = x.numel() // columns if columns else 0
    rstd = torch.empty(rows, dtype=torch.float32, device=x.device)
    mean = rstd.new_empty(0) if rms else torch.empty_like(rstd)
    if rows:
        v = rows_of(x)
        r = v if residual is None else rows_of(residual)
        weight = weight.contiguous() if weight is not None else None
        bias = bias.contiguous() if bias is not None else None
        tensors = (
            v,
            r,
            v if weight is None else weight,
            v if bias is None else bias,
            y,
            z,
            rstd if rms else mean,
            rstd,
        )
        flags = {"RMS": rms, "RESIDUAL": residual is not None, "WEIGHT": weight is not None, "BIAS": bias is not None}
        with on_device(x):
            if columns <= _ROW_BLOCK:
                tile, block, warps = _row_launch(columns)
                wrap_triton(_norm_kernel)[(cdiv(rows, tile),)](
                    *tensors, rows, columns, v.stride(0), r.stride(0), eps, **flags, ROWS=tile, BLOCK=block,
                    num_warps=warps,
                )  # fmt: skip
            else:
                wrap_triton(_norm_long_kernel)[(rows,)](
                    *tensors, columns, v.stride(0), r.stride(0), eps, **flags, BLOCK=_LONG_BLOCK, num_warps=8
                )
    return y, z, mean, rstd


def norm_backward(
    dy: torch.Tensor,
    dz: torch.Tensor | None,
    z: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    bias: bool,
    rms: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(dx, dweight, dbias) of `norm`; dx is the gradient of x and of the residual.

    Args:
        dz: gradient of the second result, added to dx.
        bias: whether there was one.
    """
    op = "rms_norm_backward" if rms else "layer_norm_backward"
    columns = _check(op, z, weight=weight)
    check_tensors(op, "z", z, dy=dy, dz=dz)
    check_shape(op, "dy", dy, z.shape)
    check_shape(op, "dz", dz, z.shape)
    z, dy = z.contiguous(), dy.contiguous()
    dx = torch.empty_like(z)
    rows = rstd.numel()
    if rows == 0:
        zeros = z.new_zeros(columns)
        return dx, zeros if weight is not None else None, zeros.clone() if bias else None
    dz = dz.contiguous() if dz is not None else None
    weight = weight.contiguous() if weight is not None else None
    tile, block, warps = _row_launch(columns)
    chunk = max(tile, cdiv(rows, _PROGRAMS))
    parts = cdiv(rows, chunk)
    partial = torch.empty((2, parts, columns), dtype=torch.float32, device=z.device)
    tensors = (z, dy, z if dz is None else dz, z if weight is None else weight, rstd if rms else mean, rstd, dx)
    with on_device(z):
        if columns <= _ROW_BLOCK_BACKWARD:
            wrap_triton(_norm_backward_kernel)[(parts,)](
                *tensors, partial[0], partial[1], rows, columns, chunk,
                RMS=rms, DZ=dz is not None, WEIGHT=weight is not None, BIAS=bias, ROWS=tile, BLOCK=block,
                num_warps=warps,
            )  # fmt: skip
        else:
            wrap_triton(_norm_long_backward_kernel)[(rows,)](
                *tensors, columns, RMS=rms, DZ=dz is not None, WEIGHT=weight is not None, BLOCK=_LONG_BLOCK, num_warps=8
            )
            if weight is not None or bias:
                chunk = max(16, cdiv(rows, 8))
                partial = partial[:, : cdiv(rows, chunk)]
                partial = partial.contiguous()
                wrap_triton(_norm_long_weight_kernel)[(cdiv(columns, 128), partial.shape[1])](
                    z, dy, rstd if rms else mean, rstd, partial[0], partial[1], rows, columns, chunk,
                    RMS=rms, BIAS=bias, ROWS=16, COLUMNS=128,
                )  # fmt: skip
    return (
        dx,
        sum_rows(partial[0], z.dtype) if weight is not None else None,
        sum_rows(partial[1], z.dtype) if bias else None,
    )


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """layer_norm over the last dimension; `norm` has the equation, a residual, and what backward needs."""
    return norm(x, weight, bias, None, eps, rms=False)[0]


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None = None, eps: float | None = None) -> torch.Tensor:
    """rms_norm over the last dimension; eps=None is the dtype's epsilon. `norm` has the equation."""
    return norm(x, weight, None, None, torch.finfo(x.dtype).eps if eps is None else eps, rms=True)[0]
