"""Cross-entropy of a linear layer's output, which is never held whole: only its loss and the gradients are."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, check_shape, check_tensors, next_power_of_2, on_device, wrap_triton
from .cross_entropy import label_weight, row_losses
from .matmul import matmul
from .reduction import sum_rows

_SPLITS = 16  # programs that share a block of rows, each with its part of the classes

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _log_sum_kernel(
    x, w, bias, target, log_sums, own, sums, rows, classes, size, chunk, x_r, w_c,
    BIAS: tl.constexpr, SUMMED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of the logits x w^T + bias in a part of the classes: log sum exp, the label's logit (0 elsewhere), their sum."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    part = tl.program_id(1)
    source = x + tl.where(row < rows, row, 0).to(tl.int64)[:, None] * x_r
    label = tl.load(target + row, mask=row < rows, other=-1)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mine = tl.zeros((BLOCK_M,), tl.float32)
    plain = tl.zeros((BLOCK_M,), tl.float32)
    first = part * chunk
    last = tl.minimum(first + chunk, classes)
    lane = tl.arange(0, BLOCK_K)
    for start in range(first, last, BLOCK_N):
        col = start + tl.arange(0, BLOCK_N)
        filters = w + tl.where(col < last, col, 0).to(tl.int64)[None, :] * w_c
        s = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, size, BLOCK_K):
            a = tl.load(source + (k + lane)[None, :], mask=(k + lane < size)[None, :], other=0.0)
            b = tl.load(filters + (k + lane)[:, None], mask=(k + lane < size)[:, None], other=0.0)
            s = tl.dot(a, b, s, input_precision=PRECISION)
        if BIAS:
            s += tl.load(bias + col, mask=col < last, other=0.0).to(tl.float32)[None, :]
        # the logits that a layer of its own would have written
        s = s.to(x.dtype.element_ty).to(tl.float32)
        known = (col < last)[None, :]
        mine += tl.sum(tl.where((col[None, :] == label[:, None]) & known, s, 0.0), 1)
        if SUMMED:
            plain += tl.sum(tl.where(known, s, 0.0), 1)
        s = tl.where(known, s, float("-inf"))
        new = tl.maximum(top, tl.max(s, 1))
        shift = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(s - shift[:, None]), 1)
        top = new
    at = part.to(tl.int64) * rows + row
    tl.store(log_sums + at, top + tl.log(total), mask=row < rows)
    tl.store(own + at, mine, mask=row < rows)
    if SUMMED:
        tl.store(sums + at, plain, mask=row < rows)


_LAUNCH = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
_LAUNCH_FLOAT32 = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16, "num_warps": 8, "num_stages": 3}
VARIANTS = (
    Variant(
        _log_sum_kernel,
        {
            **{name: "*T:16" for name in ("x", "w", "bias")},
            **{name: "*fp32:16" for name in ("log_sums", "own", "sums")},
            **{name: "i32:16" for name in ("classes", "size", "chunk", "x_r", "w_c")},
            **{"target": "*i64:16", "rows": "i32"},
        },
        {"BIAS": True, "SUMMED": True, "PRECISION": "ieee", "BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64},
        "",
        warps=8,
        stages=3,
        registers=255,
        shared=100 << 10,
        dots="wgmma",
        wide=(4, 0),
        dtypes=("bfloat16", "float16"),
    ),
)

# ---- launchers -------------------------------------------------------------------------------------------------------


def linear_cross_entropy(
    x: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    gradient: bool = False,
    precision: str = "ieee",
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """(loss, dx, dweight, dbias): cross_entropy(x weight^T + bias, target), and its gradients or None.

    Without gradients no logit leaves the chip. With them, rows go in chunks whose logits take about the memory of x,
    and the gradients of the weight are summed over the chunks in float32.

    Args:
        x: (rows, size), floating.
        weight: (classes, size).
        target: (rows,) int64; see cross_entropy.
        bias: (classes,).
        reduction: "mean" or "sum".
        gradient: whether to compute them.
    """
    op = "linear_cross_entropy"
    check_tensors(op, "x", x, weight=weight, bias=bias)
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; expected (rows, size) and "
            "(classes, size)"
        )
    rows, classes = x.shape[0], weight.shape[0]
    check_shape(op, "target", target, (rows,))
    check_shape(op, "bias", bias, (classes,))
    if target.dtype != torch.int64:
        raise NotImplementedError(f"{op}: target has dtype {target.dtype}; expected int64 labels")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{op}: reduction is {reduction!r}; expected 'mean' or 'sum'")
    divisor = label_weight(target, None, ignore_index) if reduction == "mean" else None
    if gradient:
        return _with_gradients(x, weight, target, bias, divisor, ignore_index, label_smoothing, precision)
    losses = _losses(x, weight, target, bias, ignore_index, label_smoothing, precision)
    return _reduced(losses, divisor, x.dtype), None, None, None


def _reduced(losses: torch.Tensor, divisor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    loss = losses.sum()
    return (loss if divisor is None else loss / divisor).to(dtype)


def _losses(
    x: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None,
    ignore_index: int,
    smoothing: float,
    precision: str,
) -> torch.Tensor:
    (rows, size), classes = x.shape, weight.shape[0]
    if rows == 0 or classes == 0:
        return torch.zeros(rows, dtype=torch.float32, device=x.device)
    x, weight = (v if v.stride(1) == 1 else v.contiguous() for v in (x, weight))
    launch = dict(_LAUNCH_FLOAT32 if x.dtype == torch.float32 else _LAUNCH)
    chunk = cdiv(cdiv(classes, _SPLITS), launch["BLOCK_N"]) * launch["BLOCK_N"]
    parts = cdiv(classes, chunk)
    log_sums, own, sums = torch.empty((3, parts, rows), dtype=torch.float32, device=x.device).unbind()
    with on_device(x):
        wrap_triton(_log_sum_kernel)[(cdiv(rows, launch["BLOCK_M"]), parts)](
            *(x, weight, x if bias is None else bias.contiguous(), target.contiguous(), log_sums, own, sums),
            *(rows, classes, size, chunk, x.stride(0), weight.stride(0)),
            BIAS=bias is not None,
            SUMMED=smoothing > 0,
            PRECISION=precision,
            **launch,
        )
    log_sum = torch.logsumexp(log_sums, 0)
    losses = log_sum - own.sum(0)
    if smoothing > 0:
        losses = (1.0 - smoothing) * losses + smoothing / classes * (classes * log_sum - sums.sum(0))
    # As in cross_entropy: a label that is no class gives NaN
    known = (target >= 0) & (target < classes)
    return torch.where(target == ignore_index, 0.0, torch.where(known, losses, torch.nan))


def _with_gradients(
    x: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None,
    divisor: torch.Tensor | None,
    ignore_index: int,
    smoothing: float,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    (rows, size), classes = x.shape, weight.shape[0]
    # as many rows as have logits of the size of x, rounded to a size that products like
    chunk = max(128, next_power_of_2(cdiv(rows, max(1, cdiv(classes, max(size, 1))))))
    losses = []
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.zeros(weight.shape, dtype=torch.float32, device=x.device)
    dbias = torch.zeros(classes, dtype=torch.float32, device=x.device)
    for first in range(0, rows, chunk):
        part, labels = x[first : first + chunk], target[first : first + chunk]
        logits = matmul(part, weight.t(), bias, precision=precision)
        loss, grad = row_losses(logits, labels, None, divisor, ignore_index, smoothing, True, in_place=True)
        losses.append(loss)
        dx[first : first + chunk] = matmul(grad, weight, precision=precision)
        dweight = matmul(grad.t(), part, residual=dweight, precision=precision, out_dtype=torch.float32)
        if bias is not None:
            dbias += sum_rows(grad, torch.float32)
    loss = torch.cat(losses) if losses else dx.new_zeros(0, dtype=torch.float32)
    return (
        _reduced(loss, divisor, x.dtype),
        dx,
        dweight.to(weight.dtype),
        None if bias is None else dbias.to(bias.dtype),
    )
